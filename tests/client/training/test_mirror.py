"""A client's mirror of its expert's aggregate, from task to task."""

from pathlib import Path

import pytest
import torch
from assertions import same
from flwr.app import RecordDict
from owners import forget_answered

from fedmore.client.client_app import handle
from fedmore.client.state.memory import Memory
from fedmore.client.training import expert_work as apps
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.experts.errors import DataError, WireError
from fedmore.protos.wire.flower_compat import make_task
from fedmore.strategies.expert_stage.aggregate_mirror import broadcast, fingerprint
from fedmore.strategies.members import HELLO
from fedmore.strategies.tasks.train import TRAIN, TrainTask, train_content


@pytest.fixture
def sites(tiny):
    return task(1).spec("a").sites(shapes_of(load_base(str(tiny), "float32").model))


def task(number):
    return TrainTask(
        expert="kitchen", kind="expert", target="kitchen", rank=4, first_layers=1, last_layers=1,
        stage="experts", round=number, rounds=3, steps=1, batch_size=1, sequence_length=32,
        learning_rate=2e-2, codec="sign1", threads=1, seed=0, updates=number - 1,
    )  # fmt: skip


def send(content, context):
    made = make_task(content, task_id="t", node_id=5, message_type=TRAIN)
    reply = handle(made, context).content
    return reply.array_records["update"]["change"].data


def held(context):
    return Memory(Path(context.node_config["state"]) / "node-5").read("kitchen").mirror


def says(context):
    made = make_task(RecordDict(), task_id="h", node_id=5, message_type=HELLO)
    return handle(made, context).content.config_records["member"]["mirrors"]


def aggregate(sites, size=0.2):
    return {
        s.path: (torch.randn(s.out_features, 5) * size, torch.randn(5, s.in_features) * size)
        for s in sites
    }


def near(factors):
    return {
        path: (b + 0.02 * torch.randn(b.shape), a + 0.02 * torch.randn(a.shape))
        for path, (b, a) in factors.items()
    }


@pytest.fixture
def casts(sites):
    """The sends of two rounds: whole, and what moves it."""
    there = aggregate(sites)
    first = broadcast(there, {}, "sign1", sites)
    return first, broadcast(near(there), first.mirror, "sign1", sites)


def test_it_is_kept_moved_and_told(context, sites, casts):
    first, second = casts
    send(first.content(task(1), sites, 0), context)
    assert same(held(context), first.mirror)
    assert says(context) == [fingerprint(first.mirror)]
    content = second.content(task(2), sites, says(context)[0])
    assert set(content.array_records["state"]) == {"move"}
    answer = send(content, context)
    assert same(held(context), second.mirror)
    assert says(context) == [fingerprint(second.mirror)]
    assert send(content, context) == answer
    assert same(held(context), second.mirror)


def test_training_is_over_it(context, sites, casts, monkeypatch):
    """The answer is that of a client that got the same numbers whole, to the last bit."""
    first, second = casts
    send(first.content(task(1), sites, 0), context)
    file = Path(context.node_config["state"]) / "node-5" / "kitchen.component.safetensors"
    before = file.read_bytes()
    moved = send(second.content(task(2), sites, fingerprint(first.mirror)), context)
    file.write_bytes(before)
    forget_answered(context)
    assert send(second.content(task(2), sites, 0), context) == moved
    file.write_bytes(before)
    forget_answered(context)
    assert send(first.content(task(2), sites, 0), context) != moved


def test_who_has_lost_it_says_so_and_does_not_guess(context, sites, casts):
    first, second = casts
    send(first.content(task(1), sites, 0), context)
    memory = Memory(Path(context.node_config["state"]) / "node-5")
    entry = memory.read("kitchen")
    memory.write("kitchen", apps.Remembered(
        entry.component, entry.residual, entry.updates, entry.task, entry.answer, entry.metrics
    ))  # fmt: skip
    assert says(context) == [0]
    with pytest.raises(WireError, match="kitchen: no mirror is held here"):
        send(second.content(task(2), sites, fingerprint(first.mirror)), context)
    forget_answered(context)
    send(second.content(task(2), sites, says(context)[0]), context)
    assert same(held(context), second.mirror)


def test_a_task_that_fails_leaves_it_where_it_was(context, sites, casts, monkeypatch):
    first, second = casts
    send(first.content(task(1), sites, 0), context)

    def fail(*_args, **_kwargs):
        raise DataError("no text in it")

    with monkeypatch.context() as patch:
        patch.setattr(apps, "train", fail)
        with pytest.raises(DataError):
            send(second.content(task(2), sites, fingerprint(first.mirror)), context)
    assert same(held(context), first.mirror)


def test_what_travels_whole_in_every_round_is_not_kept(context, sites, casts):
    first, _ = casts
    send(first.content(task(1), sites, 0), context)
    send(train_content(task(2), sites, "bf16", first.mirror), context)
    assert held(context) == {}
    assert says(context) == [0]
