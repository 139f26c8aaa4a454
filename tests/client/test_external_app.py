import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmore.client.external_app import make_handler
from fedmore.client.state.app_memory import ANSWERS, Memory
from fedmore.experts.errors import DataError
from fedmore.protos.wire.flower_compat import make_task

BIG = bytes(range(256)) * 300  # above what is kept inline


class Counting:
    """A ClientApp that counts its tasks in its state and answers with a large array."""

    def __init__(self):
        self.calls, self.app = 0, ClientApp()

        @self.app.train()
        def train(message, context):
            self.calls += 1
            count = context.state.setdefault("count", ConfigRecord({"tasks": 0}))
            count["tasks"] += 1
            if message.content["config"].get("fail"):
                raise ZeroDivisionError
            array = Array("uint8", (len(BIG),), "own", BIG + bytes([count["tasks"]]))
            records = {"a": ArrayRecord({"big": array}), "config": context.state["count"]}
            return Message(RecordDict(records), reply_to=message)


def task(name, **config):
    content = RecordDict({"config": ConfigRecord(config)})
    return make_task(content, task_id=name, node_id=5, message_type="train")


@pytest.fixture
def counting():
    return Counting()


def test_state_outlives_the_process(counting, tmp_path):
    for number in (1, 2, 3):
        handle = make_handler(counting.app, 5, {"who": "ada"}, tmp_path)  # as after a restart
        assert handle(task(f"t{number}")).content["config"]["tasks"] == number


def test_a_task_that_comes_again_after_a_restart_is_answered_and_not_done(counting, tmp_path):
    first = make_handler(counting.app, 5, {}, tmp_path)(task("t1"))
    make_handler(counting.app, 5, {}, tmp_path)(task("t2"))
    again = make_handler(counting.app, 5, {}, tmp_path)(task("t1"))
    assert counting.calls == 2
    assert again.content["a"]["big"].data == first.content["a"]["big"].data == BIG + b"\x01"
    assert again.content["config"] == first.content["config"]
    assert again.metadata.reply_to_message_id == "t1"


def test_a_task_that_failed_leaves_no_trace_and_is_done_again(counting, tmp_path):
    handle = make_handler(counting.app, 5, {}, tmp_path)
    with pytest.raises(ZeroDivisionError):
        handle(task("t1", fail=True))
    assert handle(task("t1")).content["config"]["tasks"] == 1


def test_old_answers_and_their_files_go(counting, tmp_path):
    handle = make_handler(counting.app, 5, {}, tmp_path)
    for number in range(ANSWERS + 3):
        handle(task(f"t{number}"))
    files = list((tmp_path / "app").iterdir())
    assert len([f for f in files if f.suffix == ".kept"]) == ANSWERS
    assert len([f for f in files if f.suffix != ".kept"]) == ANSWERS
    memory = Memory(tmp_path / "app")
    assert memory.answer("t2") is None
    assert memory.answer("t3")["a"]["big"].data == BIG + b"\x04"
    assert memory.state()["count"]["tasks"] == ANSWERS + 3


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "000000000000.kept").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"000000000000\.kept: damaged"):
        Memory(tmp_path).state()
