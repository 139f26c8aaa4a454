"""The contract: what is declared leaves, whatever else is there or is asked for does not."""

from dataclasses import asdict

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from owners import lenient, owner

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.egress.schema import embed_answer, train_answer
from fedmore.experts.errors import EgressError, RankError, WireError
from fedmore.protos.wire.flower_compat import make_failure, make_task
from fedmore.strategies.embedding_stage import strategy
from fedmore.strategies.members import HELLO, Member, hello
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks import train
from fedmore.strategies.tasks.train import (
    EMBED,
    STYPE,
    TRAIN,
    TrainTask,
    train_content,
    update_content,
)

SECRET = "Mrs Example was admitted on 3 May"
STAGE = ExpertStage()
CHANGES = 6 * 3 * 4 * (64 + 176)  # numbers of rank 4 in the tiny base


@pytest.fixture
def node(tiny, tmp_path):
    return {
        "name": "a", "kind": "expert", "target": "kitchen", "rank": 4, "data": str(tmp_path),
        "base": str(tiny), "dtype": "float32", "device": "cpu", "quantization": "none",
        **owner(tmp_path / "state", "a", min_tokens=256),
    }  # fmt: skip


@pytest.fixture
def guard(node, tmp_path):
    return guard_of(5, node, Audit(tmp_path / "state"))


def train_task(**changes):
    values = {
        "expert": "kitchen", "kind": "expert", "target": "kitchen", "rank": 4, "first_layers": 10,
        "last_layers": 2, "stage": "experts", "round": 1, "rounds": 3, "steps": 4, "batch_size": 2,
        "sequence_length": 32, "learning_rate": 1e-3, "codec": "fp32", "threads": 1, "seed": 0,
        "updates": 0,
    }  # fmt: skip
    return TrainTask(**(values | changes))


def message(kind, content=None):
    return make_task(content or RecordDict(), task_id="t", node_id=5, message_type=kind)


def train_message(**changes):
    return message(TRAIN, train_content(train_task(**changes), (), "fp32", None))


def embed_message(**changes):
    values = {"documents": 100, "tokens": 16, "seed": 0, "stage": "router", "round": 1}
    return message(EMBED, RecordDict({"task": ConfigRecord(values | changes)}))


def metrics(**changes):
    return {
        "loss": 2.5, "tokens": 256, "tokens_per_s": 80.0, "documents": 3, "epochs": 0.5,
        "numbers": CHANGES, "payload_bytes": 4 * CHANGES,
    } | changes  # fmt: skip


def update(data=bytes(4 * CHANGES), codec="fp32", **changes):
    return update_content(data, codec, metrics(**changes))


def answer(task, content):
    return Message(content, reply_to=task)


def test_true_answers_leave_and_are_noted(guard, tmp_path):
    member = Member("a", "expert", "kitchen", 4, 1000, ["kitchen"], [3], [2**47])
    vector = strategy.embedding_content(torch.zeros(64), {"documents": 9, "tokens": 300})
    for task, content in (
        (message(HELLO), hello(member)),
        (train_message(), update()),
        (embed_message(), vector),
    ):
        reply = answer(task, content)
        assert guard.check_task(task)(reply) is reply
    lines = read_ledger(tmp_path / "state").lines
    assert [line["type"] for line in lines] == [HELLO, TRAIN, EMBED]
    assert lines[1]["arrays"][0]["bytes"] == 4 * CHANGES
    assert sum(lines[1]["arrays"][0]["factors"].values()) == 36
    assert lines[1]["values"]["metrics/loss"] == 2.5


def test_the_declared_metrics_are_those_of_the_task(guard):
    task = train_task()
    sites = task.spec("a").sites(guard.policy.node.shapes)
    assert tuple(train_answer(task, sites).metrics["metrics"]) == train.METRICS
    assert tuple(embed_answer(64).metrics["metrics"]) == strategy.METRICS


def array(**changes):
    given = {"dtype": "uint8", "shape": (4 * CHANGES,), "stype": STYPE + "fp32",
             "data": bytes(4 * CHANGES)}  # fmt: skip
    return Array(**(given | changes))


def with_arrays(**arrays):
    content = update()
    return RecordDict({**content, "update": ArrayRecord(arrays)})


TEXT = Array("uint8", (len(SECRET),), STYPE + "fp32", SECRET.encode())
BAD_UPDATES = {
    "a record more": RecordDict({**update(), "notes": ConfigRecord({"text": SECRET})}),
    "a record less": RecordDict({"update": update()["update"]}),
    "text for metrics": RecordDict({**update(), "metrics": ConfigRecord({"loss": SECRET})}),
    "an array more": with_arrays(change=array(), text=TEXT),
    "text in a name": with_arrays(**{"change": array(), SECRET: array(data=b"", shape=(0,))}),
    "text for the change": with_arrays(change=TEXT),
    "a byte more": with_arrays(change=array(data=bytes(4 * CHANGES + 1))),
    "another shape": with_arrays(change=array(shape=(CHANGES, 4))),
    "another dtype": with_arrays(change=array(dtype=SECRET)),
    "another stype": with_arrays(change=array(stype=SECRET)),
    "another codec": update(bytes(2 * CHANGES), "bf16"),
    "a metric more": update(extra=1.0),
    "NaN": update(loss=float("nan")),
    "infinity": update(tokens_per_s=float("inf")),
    "below 0": update(loss=-1.0),
    "a list": update(loss=[2.5]),
    "digits that hide something": update(loss=2.50001234),
    "tokens that do not follow": update(tokens=257),
    "numbers that do not follow": update(numbers=CHANGES + 1),
    "bytes that do not follow": update(payload_bytes=0),
}


@pytest.mark.parametrize("content", BAD_UPDATES.values(), ids=BAD_UPDATES)
def test_any_other_update_stays(guard, content):
    task = train_message()
    with pytest.raises(EgressError) as raised:
        guard.check_task(task)(answer(task, content))
    assert "Example" not in str(raised.value)


def member(**changes):
    values = asdict(Member("a", "expert", "kitchen", 4, 1000, ["kitchen"], [3], [0])) | changes
    return RecordDict({"member": ConfigRecord(values)})


@pytest.mark.parametrize(
    "content",
    [
        member(name=SECRET),
        member(target="b"),
        member(kind="adapter"),
        member(rank=5),
        member(size=-1),
        member(size=True),
        member(experts=[SECRET]),
        member(experts=["kitchen", "kitchen"], updates=[1, 1]),
        member(experts="kitchen"),
        member(updates=[1.5]),
        member(mirrors=[1.5]),
        member(mirrors=[1, 2]),
        member(mirrors=[SECRET]),
        member(note=SECRET),
        RecordDict({"member": MetricRecord({"size": 3})}),
    ],
)
def test_any_other_hello_stays(guard, content):
    with pytest.raises(EgressError) as raised:
        guard.check_task(message(HELLO))(answer(message(HELLO), content))
    assert "Example" not in str(raised.value)


def test_an_error_that_the_app_worded_itself_stays(guard):
    task = message(HELLO)
    with pytest.raises(EgressError, match="its text stays here"):
        guard.check_task(task)(make_failure(task, SECRET))


@pytest.mark.parametrize(
    ("task", "error", "says"),
    [
        (message("query.text"), EgressError, "asked for 'query.text'; only"),
        (message("evaluate"), EgressError, "asked for 'evaluate'"),
        (message("train.text"), EgressError, "asked for"),
        (train_message(rank=8), EgressError, "the owner of this client chose"),
        (train_message(rank=64), EgressError, "the owner of this client chose"),
        (train_message(ranks="gate=4,up=4,down=4"), EgressError, "the owner of this client chose"),
        (train_message(target="garden"), EgressError, "the owner"),
        (train_message(expert="garden"), EgressError, "the owner"),
        (train_message(kind="adapter"), EgressError, "the owner"),
        (train_message(codec="sha256"), WireError, "unknown codec"),
        (train_message(steps=1), EgressError, "made of 64 tokens of text"),
        (train_message(steps=-8, batch_size=-8), EgressError, "made of -8 x -8 windows"),
        (embed_message(tokens=-5), EgressError, "fewer than 1"),
        (embed_message(documents=1), EgressError, "fewer than 16"),
        (message(TRAIN), WireError, "not a training task"),
    ],
)
def test_nothing_else_is_done(guard, task, error, says):
    with pytest.raises(error, match=says):
        guard.check_task(task)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "sign1,factor_a=fp32", "auto,below=300"])
def test_only_layouts_that_the_owner_allows(node, tmp_path, codec):
    guard = guard_of(5, node | {"policy": lenient(codecs=("sign1",))}, Audit(tmp_path))
    guard.check_task(train_message(codec="sign1"))
    with pytest.raises(EgressError, match="the owner allows sign1"):
        guard.check_task(train_message(codec=codec))


PATTERN = "gate=2,up=2,down=4"
OF_PATTERN = 6 * (2 + 2 + 4) * (64 + 176)  # numbers of the pattern in the tiny base


@pytest.mark.parametrize(
    "asked",
    [
        {"ranks": "", "rank": 4},
        {"ranks": "gate=4,up=2,down=2", "rank": 4},
        {"ranks": "gate=2,up=2,down=8", "rank": 8},
        {"ranks": "16,gate=2,up=2,down=4", "rank": 16},
    ],
)
def test_another_pattern_than_the_owners_is_refused(node, tmp_path, asked):
    guard = guard_of(5, node | {"ranks": PATTERN}, Audit(tmp_path))
    guard.check_task(train_message(ranks=PATTERN))
    with pytest.raises(EgressError, match="the owner of this client chose"):
        guard.check_task(train_message(**asked))


def test_an_update_is_as_large_as_the_pattern_says(node, tmp_path):
    guard = guard_of(5, node | {"ranks": PATTERN}, Audit(tmp_path))
    task = train_message(ranks=PATTERN)
    size = {"numbers": OF_PATTERN, "payload_bytes": 4 * OF_PATTERN}
    good = update(bytes(4 * OF_PATTERN), **size)
    guard.check_task(task)(answer(task, good))
    with pytest.raises(EgressError):
        guard.check_task(task)(answer(task, update()))  # what rank 4 everywhere would give


@pytest.mark.parametrize(
    ("ranks", "rank", "tokens"), [("", 4, 128), ("gate=4,up=4,down=8", 8, 256)]
)
def test_the_floor_of_tokens_goes_by_the_largest_rank_of_a_matrix(
    node, tmp_path, ranks, rank, tokens
):
    rules = lenient(min_tokens=1, tokens_per_direction=16)
    guard = guard_of(5, node | {"ranks": ranks, "rank": rank, "policy": rules}, Audit(tmp_path))
    policy = guard.policy.node.rules
    assert policy.tokens_needed(rank, ["int8"]) == tokens
    guard.check_task(train_message(ranks=ranks, rank=rank, codec="int8", steps=tokens // 64))
    few = train_message(ranks=ranks, rank=rank, codec="int8", steps=tokens // 64 - 1)
    with pytest.raises(EgressError, match=f"made of {tokens - 64} tokens of text"):
        guard.check_task(few)


@pytest.mark.parametrize("ranks", ["", PATTERN])
def test_a_client_says_the_pattern_that_its_owner_chose(node, tmp_path, ranks):
    guard = guard_of(5, node | {"ranks": ranks}, Audit(tmp_path))
    task = message(HELLO)
    who = Member("a", "expert", "kitchen", 4, 1000, [], [], ranks=ranks)
    guard.check_task(task)(answer(task, hello(who)))
    with pytest.raises(EgressError):
        guard.check_task(task)(answer(task, member(experts=[], updates=[], mirrors=[], ranks="4")))


def test_a_rank_above_the_matrix_is_refused(node, tmp_path):
    guard = guard_of(5, node | {"rank": 65}, Audit(tmp_path))
    with pytest.raises(RankError, match="at most 64"):
        guard.check_task(train_message(rank=65))


def test_what_the_demo_asks_for_is_allowed():
    from fedmore.sims.scenarios.quickstart import _SHARED as QUICKSTART
    from fedmore.sims.scenarios.smoke import _SHARED as SMOKE

    for shared in (QUICKSTART, SMOKE):
        assert shared["steps"] * shared["batch_size"] * shared["sequence_length"] >= 256


def test_a_download_is_bounded_by_the_base(guard):
    full = 6 * (4 * 64 * (64 + 64) // 2 + 3 * 64 * (64 + 176))
    assert 4 * full < guard.max_download < 16 * full + (2 << 20)
