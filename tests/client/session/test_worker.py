"""Tasks in hand: done once, however often they are offered, and in the guard's hands first."""

import hashlib
import threading

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from heard import Heard

from fedmore.client.session import worker as module
from fedmore.client.session.worker import Worker
from fedmore.client.training.progress import report
from fedmore.client.transport.audited_stub import Unguarded
from fedmore.client.transport.outbox import Outbox
from fedmore.experts.errors import EgressError, RegistryError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import make_reply, make_task
from fedmore.protos.wire.messages import pack_task
from fedmore.protos.wire.records import StoredArray

BLOB = bytes(range(256)) * 1024


class Wire(Heard):
    """Link and outbox in one: what comes, and what was sent."""

    def __init__(self):
        super().__init__()
        self.blobs, self.uploads, self.told = {}, {}, []

    def download(self, digest, offset):
        if digest not in self.blobs:
            raise RegistryError("no task of yours names it")
        yield self.blobs[digest][offset:]

    def upload(self, digest, payload):
        self.uploads[digest] = payload

    def stream(self):
        outbox = Outbox(pb.Hello(), heartbeat_s=60.0)
        outbox.reply, outbox.progress = self.say, self.told.append
        return outbox

    def task(self, task_id, **arrays):
        content = RecordDict({"c": ConfigRecord({"n": 1}), "arrays": ArrayRecord(arrays)})
        packed = pack_task(make_task(content, task_id=task_id, node_id=1, message_type="train"))
        self.blobs |= packed.blobs
        return packed.message


class App:
    """A handler that waits to be let through, echoes, and remembers what it was asked."""

    def __init__(self):
        self.entered, self.open, self.asked = threading.Semaphore(0), threading.Event(), []
        self.open.set()

    def __call__(self, message):
        self.asked.append(message)
        self.entered.release()
        while not self.open.wait(0.001):
            report(1, 2, 0.5, 1.0, 8)
        return make_reply(message, message.content)


@pytest.fixture
def app():
    return App()


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def make(app, wire, tmp_path):
    made = []

    def start(guard=None, handler=app):
        fatal = []
        worker = Worker(handler, wire, guard or Unguarded(), tmp_path / "d", 5.0, fatal.append)
        worker.fatal = fatal
        made.append(worker)
        worker.start()
        worker.attach(wire.stream())
        return worker

    yield start
    for worker in made:
        worker.stop()
        worker.join(5)
        assert not worker._thread.is_alive()


def test_a_task_offered_again_and_again_is_done_once_and_answered_again(make, app, wire):
    worker, task = make(), wire.task("t")
    app.open.clear()
    for _ in range(3):
        worker.offer(task)
    assert app.entered.acquire(timeout=5)
    assert worker.in_hand() == ["t"]
    app.open.set()
    wire.wait(1)
    worker.offer(task)
    wire.wait(2)
    assert len(app.asked) == 1
    assert worker.in_hand() == ["t"]
    worker.taken("t")
    assert worker.in_hand() == []


def test_large_arrays_come_as_files_which_go_when_the_reply_is_taken(make, app, wire, tmp_path):
    worker = make()
    worker.offer(wire.task("t", w=Array("u1", (len(BLOB),), "raw", BLOB)))
    wire.wait(1)
    [message] = app.asked
    array = message.content["arrays"]["w"]
    assert isinstance(array, StoredArray)
    digest = hashlib.sha256(BLOB).hexdigest()
    assert wire.uploads == {digest: tmp_path / "d" / digest}, "the echo is sent from the file"
    assert array.data == BLOB
    left = tmp_path / "d" / ("0" * 64)
    left.write_bytes(b"by an earlier process")
    worker.taken("unknown")
    assert left.exists()
    worker.taken("t")
    assert list((tmp_path / "d").iterdir()) == []


def test_no_more_than_so_many_wait(make, app, wire):
    worker = make()
    app.open.clear()
    for i in range(module.TASKS + 5):
        worker.offer(wire.task(str(i)))
    assert len(worker.in_hand()) == module.TASKS
    app.open.set()
    for i in range(module.TASKS):
        wire.wait(i + 1)
        worker.taken(str(i))
    worker.offer(wire.task(str(module.TASKS)))
    assert wire.wait(module.TASKS + 1)[-1].task_id == str(module.TASKS)


def test_a_cancelled_task_ends_at_its_next_report_and_one_that_waits_is_not_begun(make, app, wire):
    worker = make()
    app.open.clear()
    worker.offer(wire.task("a"))
    worker.offer(wire.task("b"))
    assert app.entered.acquire(timeout=5)
    worker.cancel("b")
    worker.cancel("a")
    worker.cancel("unknown")
    assert [said.failure.reason for said in wire.wait(2)] == ["cancelled"] * 2
    assert len(app.asked) == 1


class Strict(Unguarded):
    """Refuses what it is told to."""

    max_download = 1000

    def __init__(self, at):
        self.at = at

    def check_task(self, task):
        if self.at == "task":
            raise EgressError("not this task")

        def check_reply(reply):
            if self.at == "reply":
                raise EgressError("not this reply")
            return make_reply(task, RecordDict({"c": ConfigRecord({"by": "guard"})}))

        return check_reply

    def progress(self, report):
        raise AssertionError if self.at == "progress" else report

    def reason(self, task_id, error):
        if self.at == "reason":
            raise EgressError("the audit cannot be written")
        return f"{task_id}: {type(error).__name__}"


@pytest.mark.parametrize(("at", "asked"), [("task", 0), ("reply", 1)])
def test_what_the_guard_refuses_does_not_leave(make, app, wire, at, asked):
    make(Strict(at)).offer(wire.task("t"))
    assert wire.wait(1)[0].failure.reason == "t: EgressError"
    assert len(app.asked) == asked


def test_what_the_guard_makes_of_a_reply_is_what_leaves(make, wire):
    make(Strict("")).offer(wire.task("t"))
    [entry] = wire.wait(1)[0].content.records.entries
    assert entry.config.entries[0].text == "guard"


def test_a_blob_that_the_guard_knows_no_reason_for_is_not_fetched(make, app, wire, tmp_path):
    make(Strict("")).offer(wire.task("t", w=Array("u1", (len(BLOB),), "raw", BLOB)))
    assert wire.wait(1)[0].failure.reason == "t: WireError"
    assert not (tmp_path / "d").exists()
    assert app.asked == []


def test_when_nothing_may_be_said_at_all_the_session_hears_of_it(make, wire):
    worker = make(Strict("reason"))
    worker.offer(pb.Task(task_id="t"))
    worker._thread.join(5)
    [error] = worker.fatal
    assert isinstance(error, EgressError)


def test_a_handler_that_returns_something_else_fails_its_task(make, wire):
    worker = make(handler=lambda message: None)
    worker.offer(wire.task("t"))
    assert "returned a NoneType" in wire.wait(1)[0].failure.reason
