"""The routing stage: what is refused, what a round needs, and what withdrawals leave."""

import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from wire_arrays import array

from fedmore.experts.errors import DataError, RoundError
from fedmore.strategies.router_stage.state import dump
from fedmore.strategies.router_stage.strategy import RoutingStrategy
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    read_change,
    read_route_request,
    read_route_task,
)
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.train import METRICS, pack


@pytest.mark.parametrize(("quorum", "failing"), [(1.0, 1), (0.5, 2), (0.0, 3)])
def test_a_round_below_its_quorum_is_an_error(fake_grid, start, trio, quorum, failing):
    def refuse(*_):
        raise DataError("busy")

    def run(count):
        everybody = trio()
        for client in everybody[:count]:
            client.spoil = refuse
        return start(fake_grid(everybody), 1, RouterStage(codec="fp32", quorum_fraction=quorum,
                                                    learning_rate=0.1))  # fmt: skip

    good = 3 - failing
    with pytest.raises(RoundError, match=rf"round 1: {good} of 3 clients succeeded: .*b: Data"):
        run(failing)
    assert len(run(failing - 1)[1]) == 1


def update(data, **changes):
    return RecordDict({"update": ArrayRecord({"change": array(data, **changes)}),
                       "metrics": MetricRecord(dict.fromkeys(METRICS, 1))})  # fmt: skip


LIES = {
    "nothing": lambda answer, data: RecordDict(),
    "bytes too few": lambda answer, data: update(data[:-4]),
    "another codec": lambda answer, data: update(data, stype="fedmore.sign1"),
    "NaN": lambda answer, data: update(data[:-4] + b"\0\0\xc0\x7f"),
    "metrics too few": lambda answer, data: RecordDict(
        {**answer, "metrics": MetricRecord({"loss": 1.0})}
    ),
    "a loss of NaN": lambda answer, data: RecordDict(
        {**answer, "metrics": MetricRecord(dict.fromkeys(METRICS, 1) | {"loss": float("nan")})}
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_hostile_answer_fails_its_client_alone(fake_grid, start, trio, lie):
    everybody = trio()
    everybody[0].spoil = lambda _, answer: lie(answer, answer["update"]["change"].data)
    strategy, log = start(fake_grid(everybody), 1)
    (failure,) = log[0][1]["failures"]
    assert failure.startswith("b: ")
    assert set(log[0][1]["clients"]) == set(strategy.state.parts) == {"a", "g"}


@pytest.mark.parametrize(("max_rms", "limit"), [(0.0, 4 * 0.1 * 2), (3.0, 3.0)])
def test_a_change_that_no_honest_round_makes_is_refused(fake_grid, start, trio, max_rms, limit):
    everybody = trio()
    stage = RouterStage(steps=2, learning_rate=0.1, codec="fp32", max_rms=max_rms)

    def constant(value):
        def spoil(message, answer):
            change = read_change(answer, read_route_request(message.content).router(), "fp32")
            return update(pack("fp32", [t * 0 + value for t in change.values()]).data)

        return spoil

    everybody[0].spoil, everybody[1].spoil = constant(limit * 1.01), constant(limit * 0.99)
    strategy, log = start(fake_grid(everybody), 1, stage)
    (failure,) = log[0][1]["failures"]
    assert "has a root mean square of" in failure
    assert failure.startswith("b: ")
    assert set(strategy.state.parts) == {"a", "g"}


def _task(message):
    return read_route_task(message.content)


def test_who_has_no_text_has_no_say(fake_grid, start, trio):
    everybody = trio()
    everybody[0].size = 0
    strategy, log = start(fake_grid(everybody), 1)
    assert log[0][1]["failures"] == ["b: says that it has no text"]
    assert set(strategy.state.parts) == {"a", "g"}


def never(fake_grid, start, clients, rounds):
    """The stage without somebody, from the beginning."""
    return start(fake_grid(clients), rounds)[0].state


def test_who_has_withdrawn_is_not_asked(fake_grid, start, trio, world):
    world.gone = {"a"}
    grid = fake_grid(trio())
    strategy, log = start(grid, 1)
    assert set(grid.tasks(ROUTE)) == {"b", "g"}
    assert log[0][1]["failures"] == []
    b, g, _ = trio()
    assert dump(strategy.state) == dump(never(fake_grid, start, [b, g], 1))


def test_a_withdrawal_between_rounds_takes_the_part_out(fake_grid, start, trio, world):
    """The next round goes on from the router as it would be without it."""
    first, _ = start(fake_grid(trio()), 1)
    world.gone = {"a"}
    strategy, _ = start(fake_grid(trio()), 1, done=1, state=first.state)
    b, g, _ = trio()
    assert dump(strategy.state) == dump(never(fake_grid, start, [b, g], 2))


def test_a_withdrawal_in_the_middle_of_a_round_does_too(fake_grid, start, trio, world):
    first, _ = start(fake_grid(trio()), 1)
    everybody = trio()

    def withdraw(_message, answer):
        world.gone = {"a"}
        return answer

    everybody[2].spoil = withdraw
    strategy, log = start(fake_grid(everybody), 1, done=1, state=first.state)
    assert log[0][1]["failures"] == ["a: withdrawn"]
    assert set(strategy.state.parts) == {"b", "g"}
    world.gone = set()
    b, g, _ = trio()
    assert dump(strategy.state) == dump(never(fake_grid, start, [b, g], 2))


def test_an_expert_that_is_no_more_leaves_the_router(fake_grid, start, trio, world):
    """What the others have learned of the other experts stays."""
    first, _ = start(fake_grid(trio()), 1)
    world.gone = {"g"}
    grid = fake_grid(trio())
    strategy, _ = start(grid, 1, done=1, state=first.state)
    (content,) = grid.tasks(ROUTE)["a"]
    task = read_route_task(content)
    assert (task.experts, task.updates) == (("legal",), 1)
    sent, kept = (
        read_route_request(content).router(),
        first.state.without({"g"}).router().keeping([0]),
    )
    assert repr(sent.state_dict()) == repr(kept.state_dict())
    assert strategy.state.experts == ("legal",)
    assert strategy.state.updates("a") == 2


def test_when_every_owner_has_withdrawn_there_is_nothing_to_route(fake_grid, start, trio, world):
    world.gone = {"a", "b", "g"}
    with pytest.raises(RoundError, match="there is no expert to route; every owner has withdrawn"):
        start(fake_grid(trio()), 1)


def test_when_only_those_who_withdrew_are_here_that_is_said(fake_grid, start, trio, world):
    world.gone = {"a"}
    with pytest.raises(RoundError, match="no client trains the router"):
        start(fake_grid(trio()[2:]), 1)


def test_before_it_begins_there_is_no_router(world):
    with pytest.raises(RoundError, match="the routing stage has not begun"):
        _ = RoutingStrategy(RouterStage(), world.source(), 0, print).state
