"""The work of a routing task: the router alone is trained, and what is lost is sent later."""

import shutil
from pathlib import Path

import pytest
import torch

from fedmore.client.state.memory import ROUTING, Memory, Routing
from fedmore.client.state.reading_position import Reading
from fedmore.client.training import router as route
from fedmore.client.training.batches import training_windows
from fedmore.client.training.router import moved
from fedmore.experts.errors import DataError, EgressError, WireError
from fedmore.experts.routers.serialization import make_router
from fedmore.strategies.router_stage.tasks import (
    read_change,
    read_route_request,
    read_route_task,
    trained_shapes,
)
from fedmore.strategies.tasks.train import METRICS, pack, read_metrics

KINDS = ("softmax", "xlora", "remix")


@pytest.fixture
def same_text(monkeypatch):
    """Every task reads the text from its beginning, so that answers can be compared."""
    monkeypatch.setattr(
        route, "training_windows", lambda *given: training_windows(*given[:2], Reading(), 0)
    )


def memory_of(context):
    return Memory(Path(context.node_config["state"]) / f"node-{context.node_id}")


def sent(answer):
    return answer.array_records["update"]["change"].data


def change_in(answer, content):
    task = read_route_task(content)
    return read_change(answer, read_route_request(content).router(), task.codec)


def largest(change):
    return max(float(tensor.abs().max()) for tensor in change.values())


@pytest.mark.parametrize(
    ("kind", "init"), [*((kind, "zero") for kind in KINDS), ("remix", "domain")]
)
def test_only_the_routers_parameters_leave_and_they_have_moved(do, asked, kind, init):
    """What it centres by, and the domains' own rows where it starts from them, stay as they are."""
    content = asked(kind=kind, init=init, codec="fp32")
    task = read_route_task(content)
    router = read_route_request(content).router()
    answer = do(content)
    assert {name: list(record) for name, record in answer.items()} == {
        "update": ["change"], "metrics": list(METRICS)
    }  # fmt: skip
    numbers = sum(parameter.numel() for parameter in router.parameters())
    assert len(sent(answer)) == 4 * numbers
    change = change_in(answer, content)
    assert set(change) == set(trained_shapes(router))
    assert 0 < largest(change) <= 1.5 * task.learning_rate * task.steps  # AdamW's first steps
    metrics = read_metrics(answer, METRICS)
    assert metrics["tokens"] == 3 * 2 * 32
    assert 0 < metrics["documents"] <= 12  # those that the 6 windows of 32 tokens are of
    assert metrics["numbers"] == numbers
    assert metrics["payload_bytes"] == 4 * numbers


def with_router(content, router):
    content.array_records["state"]["router"] = pack("fp32", list(router.state_dict().values()))
    return content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("useful")
def test_the_router_learns_which_experts_help_on_the_owners_text(do, asked, elsewhere, kind):
    """The loss on the same windows, by the router as it was and moved by what was sent."""
    content = asked(1, kind, codec="fp32", steps=6, learning_rate=0.3)
    start = make_router(read_route_task(content).spec())
    start.bias_LA.data[:, 1] = -2.0  # the one that helps is hardly used
    router = moved(start, change_in(do(with_router(content, start)), content))
    losses = [
        read_metrics(do(with_router(asked(2, kind, steps=1), r), elsewhere(name)), METRICS)["loss"]
        for name, r in (("b", start), ("c", router))
    ]
    assert losses[1] < losses[0] - 0.05


@pytest.mark.parametrize("kind", ["softmax", "remix"])
def test_the_same_task_again_gives_the_same_bytes_without_training(do, asked, monkeypatch, kind):
    content = asked(kind=kind)
    first = do(content)
    monkeypatch.setattr(route, "train_router", None)
    again = do(asked(kind=kind))
    assert sent(again) == sent(first)
    assert read_metrics(again, METRICS) == read_metrics(first, METRICS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_task_on_another_machine_gives_the_same_bytes(do, asked, elsewhere, kind):
    assert sent(do(asked(kind=kind))) == sent(do(asked(kind=kind), elsewhere("b")))


def test_clients_of_other_names_draw_otherwise(do, asked, context, elsewhere):
    """The same text and the same router; the noise of ReMix averages out."""
    other = elsewhere("b")
    other.node_config["name"] = "b"
    content = asked(codec="fp32")
    assert sent(do(content)) != sent(do(content, other))


@pytest.mark.parametrize("what", ["seed", "steps", "updates", "router", "experts"])
def test_a_round_is_answered_once(do, asked, monkeypatch, what):
    """Also where only an owner's withdrawal has changed what is sent with it."""
    do(asked())
    content = asked()
    if what in ("router", "experts"):
        array = content.array_records["state"][what]
        state = dict(content.array_records["state"])
        state[what] = type(array)("uint8", array.shape, array.stype, bytes(4) + array.data[4:])
        content["state"] = type(content.array_records["state"])(state)
    else:
        content.config_records["task"][what] += 1
    monkeypatch.setattr(route, "train_router", None)
    with pytest.raises(EgressError, match="asked for round routing/1 a second time"):
        do(content)
    do(asked())


def test_what_was_sent_and_what_is_owed_are_all_there_was(do, asked, context, elsewhere):
    """`sent + residual == change + old residual`; at full precision the right side is sent."""
    do(asked(1))
    exact = elsewhere("exact")
    shutil.copytree(context.node_config["state"], exact.node_config["state"], dirs_exist_ok=True)
    old = memory_of(context).routing()
    assert largest(old.residual) > 0
    content = asked(2, codec="fp32")
    wanted = change_in(do(content, exact), content)
    assert largest(memory_of(exact).routing().residual) == 0
    content = asked(2)
    arrived, kept = change_in(do(content), content), memory_of(context).routing()
    for name, tensor in wanted.items():
        total = arrived[name].double() + kept.residual[name].double()
        limit = 2**-24 * ((tensor - arrived[name]).abs() + tensor.abs()) * (1 + 1e-6)
        assert ((total - tensor.double()).abs() <= limit).all()
    assert (kept.updates, kept.experts) == (2, ("kitchen", "garden", "xx"))
    assert kept.answer == sent(do(content))


def test_what_is_owed_is_sent_where_training_adds_nothing(do, asked, context):
    do(asked(1))
    owed = memory_of(context).routing().residual
    assert largest(owed) > 1e-3
    content = asked(2, codec="fp32", learning_rate=1e-9)
    for name, tensor in change_in(do(content), content).items():
        torch.testing.assert_close(tensor, owed[name], rtol=0, atol=1e-7)


def without_residual(entry):
    nothing = {name: tensor * 0 for name, tensor in entry.residual.items()}
    return Routing(nothing, entry.experts, entry.updates, entry.task, entry.answer, entry.metrics)


def test_training_goes_on_from_what_the_client_still_owes(do, asked, context, elsewhere):
    """EF21, as for experts: from the router and the residual."""
    do(asked(1, "softmax", learning_rate=1.0))
    forgetful = elsewhere("b")
    memory_of(forgetful).keep(without_residual(memory_of(context).routing()))
    content = asked(2, "softmax", steps=1, batch_size=4)
    owed, nothing = (read_metrics(do(content, at), METRICS) for at in (context, forgetful))
    assert owed["loss"] != nothing["loss"]


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({"updates": 0}, "the answer to round 1 came too late, or its round was lost"),
        ({"updates": 2}, "the client's own memory is older"),
        ({"of": ("kitchen", "garden")}, "an expert is gone"),
        ({"of": ("garden", "kitchen", "xx")}, "the experts have another order"),
    ],
)
@pytest.mark.usefixtures("same_text")
def test_what_is_owed_is_dropped_with_the_update_that_it_is_of(do, asked, elsewhere, task, why):
    do(asked(1))
    assert sent(do(asked(2, **task))) == sent(do(asked(2, **task), elsewhere("new"))), why


def test_what_is_owed_is_not_dropped_where_the_update_arrived(do, asked, elsewhere):
    do(asked(1))
    assert sent(do(asked(2))) != sent(do(asked(2), elsewhere("new")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("same_text")
def test_what_is_owed_of_another_router_is_dropped(do, asked, elsewhere, kind):
    """Whatever a coordinator counts: the numbers are of other tensors."""
    before = "remix" if kind == "xlora" else "xlora"
    do(asked(1, before))
    assert sent(do(asked(2, kind))) == sent(do(asked(2, kind), elsewhere("new")))


def test_neither_the_base_nor_the_experts_change(do, asked, base, experts):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    do(asked(kind="softmax"))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items()
    )
    assert not any(p.requires_grad and p.grad is not None for p in base.model.parameters())


def test_the_experts_rows_and_this_router_are_separate_memories(do, asked, context):
    """Nothing that `hello` counts as an expert's."""
    do(asked())
    assert memory_of(context).entries() == {}
    assert memory_of(context).routing().updates == 1


def test_progress_is_reported_step_by_step(do, asked, monkeypatch):
    steps = []
    monkeypatch.setattr(route.progress, "report", lambda *told: steps.append(told))
    do(asked())
    assert [(step, of, tokens) for step, of, _, _, tokens in steps] == [
        (1, 3, 64), (2, 3, 128), (3, 3, 192)
    ]  # fmt: skip


def test_a_broken_message_is_refused_before_anything_is_trained(do, asked, context):
    content = asked()
    del content.array_records["state"]["experts"]
    with pytest.raises(WireError, match="the routing task holds no experts"):
        do(content)
    assert memory_of(context).routing() is None


def test_damaged_memory_is_told(do, asked, context):
    do(asked())
    (memory_of(context).directory / ROUTING).write_bytes(b"x")
    with pytest.raises(DataError, match="damaged"):
        do(asked(2))
