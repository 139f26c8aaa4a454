"""A hostile coordinator and the real client: it is refused, the owner can read it, work goes on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from owners import owner

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.joining.node_options import make_handler
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.strategies.members import HELLO
from fedmore.strategies.tasks.train import (
    EMBED,
    METRICS,
    TRAIN,
    TrainTask,
    read_metrics,
    train_content,
)

SECRET = "Mrs Example was admitted on 3 May. "
TASK = TrainTask(
    expert="legal", kind="expert", target="legal", rank=4, first_layers=10, last_layers=2,
    stage="experts", round=1, rounds=1, steps=4, batch_size=2, sequence_length=32,
    learning_rate=1e-3, codec="sign1", threads=1, seed=0, updates=0,
)  # fmt: skip
EMBEDDING = {"documents": 1000, "tokens": 64, "seed": 1, "stage": "router", "round": 1}


@dataclass
class Victim:
    thread: Any
    node_id: int
    state: Path
    tiny: Path


@pytest.fixture
def victim(federation, run_session, tiny, tmp_path):
    """The real client `a`, which lets out one bit a number."""
    torch.set_num_threads(1)
    data = tmp_path / "private.jsonl"
    texts = (json.dumps({"text": SECRET + f"Patient {i}. " * 9}) + "\n" for i in range(20))
    data.write_text("".join(texts), encoding="utf-8")
    identity = federation.enrol("a")
    config = {
        "name": "a", "kind": "expert", "target": "legal", "rank": 4, "data": str(data),
        "base": str(tiny), "dtype": "float32", "device": "cpu", "quantization": "none",
        **owner(tmp_path / "state", "a", codecs=("sign1",), min_tokens=256),
    }  # fmt: skip
    audit = Audit(tmp_path / "state")
    guard = guard_of(identity.node_id, config, audit)
    handler = make_handler(identity.node_id, config)
    thread = run_session(identity, handler, guard=guard, audit=audit, patience_s=20)
    federation.running.append(thread)
    federation.eventually(lambda: federation.queue.nodes() == [identity.node_id])
    return Victim(thread, identity.node_id, tmp_path / "state", tiny)


@pytest.fixture
def ask(federation, victim):
    """Call it with a message type and a content: the client's answer."""
    grid = federation.grid

    def send(kind, content):
        message = Message(content, dst_node_id=victim.node_id, message_type=kind)
        (reply,) = grid.send_and_receive([message], timeout=30)
        return reply

    return send


def train(**changes):
    return train_content(TrainTask(**(vars(TASK) | changes)), (), "fp32", None)


def embed(**changes):
    return RecordDict({"task": ConfigRecord(EMBEDDING | changes)})


def with_array(size):
    content = train()
    content["state"] = ArrayRecord(
        {"aggregate": Array("uint8", (size,), "fedmore.fp32", bytes(size))}
    )
    return content


def wished(**more):
    return RecordDict({"task": ConfigRecord(vars(TASK) | {"aggregate_ranks": []} | more)})


EVIL = {
    "text": ("query.text", RecordDict(), "asked for 'query.text'"),
    "an evaluation": ("evaluate", RecordDict({"prompt": ConfigRecord({"text": "Say"})}), "asked"),
    "another rank": (TRAIN, train(rank=64), "the owner of this client chose"),
    "a full-size update": (TRAIN, train(rank=0), "the owner of this client chose"),
    "another expert": (TRAIN, train(expert="a/../b"), "the owner of this client chose"),
    "full precision": (TRAIN, train(codec="fp32"), "the owner allows sign1"),
    "a mix of layouts": (TRAIN, train(codec="sign1,factor_b=fp32"), "the owner allows sign1"),
    "one short text": (TRAIN, train(steps=1, batch_size=1), "made of 32 tokens"),
    "one document": (EMBED, embed(documents=1), "fewer than 16"),
    "no task at all": (TRAIN, RecordDict(), "not a training task"),
    "a wish more": (TRAIN, wished(text="all"), "not a training task"),
    "a gigantic aggregate": (TRAIN, with_array(40 << 20), "no reason to bring more than"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "content", "says"), EVIL.values(), ids=EVIL)
def test_a_wrong_wish_is_refused_and_a_right_one_done(ask, victim, kind, content, says):
    reply = ask(kind, content)
    assert reply.has_error()
    assert says in reply.error.reason
    assert "Example" not in reply.error.reason
    assert str(victim.state) not in reply.error.reason
    assert not ask(HELLO, RecordDict()).has_error()
    ledger = read_ledger(victim.state)
    assert "download" not in ledger.totals
    assert victim.thread.is_alive()
    if "EgressError" in reply.error.reason:
        assert any(says in line.get("reason", "") for line in ledger.lines)


def test_endless_embeddings(ask, victim):
    first = ask(EMBED, embed())
    assert not first.has_error()
    for documents in range(999, 990, -1):
        assert "a second time" in ask(EMBED, embed(documents=documents)).error.reason
    assert ask(EMBED, embed()).content == first.content
    lines = read_ledger(victim.state).lines
    assert sum(line["call"] == "refused" for line in lines) == 9
    assert sum(line["call"] == "allowed" for line in lines) == 2


def test_a_crash_of_the_app_tells_nothing_of_the_text(ask, victim, monkeypatch):
    from fedmore.client.training import expert_work

    def fail(*_):
        raise ValueError(f"cannot read {SECRET}")

    monkeypatch.setattr(expert_work, "train", fail)
    reply = ask(TRAIN, train())
    assert reply.error.reason.startswith("ValueError (test_coordinator.py:")
    assert "Example" not in reply.error.reason


def test_the_app_says_more_than_it_was_asked(ask, victim, monkeypatch):
    from fedmore.client.training import expert_work

    true = expert_work.update_content

    def chatty(*given):
        return RecordDict({**true(*given), "notes": ConfigRecord({"text": SECRET})})

    monkeypatch.setattr(expert_work, "update_content", chatty)
    reply = ask(TRAIN, train())
    assert "EgressError" in reply.error.reason
    assert "Example" not in reply.error.reason
    monkeypatch.undo()
    assert not ask(TRAIN, train()).has_error()


def test_a_right_wish_is_in_the_record_to_the_byte(ask, victim):
    reply = ask(TRAIN, train())
    metrics = read_metrics(reply.content, METRICS)
    data = reply.content.array_records["update"]["change"].data
    (line,) = [x for x in read_ledger(victim.state).lines if x["call"] == "allowed"]
    (array,) = line["arrays"]
    assert (array["bytes"], array["codec"]) == (len(data), "fedmore.sign1")
    assert line["values"]["metrics/numbers"] == metrics["numbers"]
    sites = TASK.spec("a").sites(shapes_of(load_base(str(victim.tiny), "float32").model))
    assert sum(array["factors"].values()) == 2 * len(sites)
