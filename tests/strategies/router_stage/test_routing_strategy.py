"""The routing stage over a grid in memory, with clients that answer as real ones do."""

import pytest
import torch

from fedmore.experts.errors import DataError
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.strategies.router_stage.state import dump, restore
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    ranks_of,
    read_route_request,
    read_route_task,
)
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.train import METRICS


def moved(initial, clients, rounds):
    """`initial` after rounds of these clients: by the mean of their changes, all alike."""
    found = {name: p.detach().double() for name, p in initial.named_parameters()}
    for number in rounds:
        for client in clients:
            for name, tensor in client.change(initial, number).items():
                found[name] = found[name] + tensor.double() / len(clients)
    return found


def assert_moved(state, wanted):
    for name, parameter in state.router().named_parameters():
        torch.testing.assert_close(parameter.double(), wanted[name], rtol=0, atol=1e-6)


def test_a_round_moves_the_router_by_the_mean(fake_grid, start, trio, world):
    everybody = trio()
    strategy, log = start(fake_grid(everybody), 2)
    initial = world.initial(world.experts)
    assert_moved(log[0][2], moved(initial, everybody, [1]))
    assert_moved(strategy.state, moved(initial, everybody, [1, 2]))
    assert [number for number, _, _ in log] == [1, 2]
    metrics = log[-1][1]
    assert list(metrics["clients"]) == ["a", "b", "g"]
    assert metrics["clients"]["a"] == dict.fromkeys(METRICS, 1)
    assert (metrics["stage"], metrics["round"], metrics["failures"]) == ("routing", 2, [])


@pytest.mark.parametrize("order", [None, 2, 4])
def test_the_order_of_replies_does_not_matter(fake_grid, start, trio, order):
    expected, told = start(fake_grid(trio(), seed=0))
    found, log = start(fake_grid(trio(), seed=order))
    assert dump(found.state) == dump(expected.state)
    assert [repr(metrics) for _, metrics, _ in log] == [repr(metrics) for _, metrics, _ in told]


def test_what_a_task_says(fake_grid, start, trio, world):
    grid = fake_grid(trio())
    _, log = start(grid, 2, RouterStage(learning_rate=0.2, download_codec="bf16"))
    assert set(grid.tasks(ROUTE)) == set("abg")
    contents = grid.tasks(ROUTE)["a"]
    first, second = (read_route_task(content) for content in contents)
    assert (first.round, second.round, first.updates, second.updates) == (1, 2, 0, 1)
    assert (first.num_selections, first.entropy_weight, first.z_loss_weight, first.seed) == (
        8,
        0.2,
        0.5,
        7,
    )
    assert (first.learning_rate, first.codec, first.rounds) == (0.2, "sign1", 3)
    assert first.spec() == world.initial(world.experts).spec
    assert (first.experts, first.ranks) == (("legal", "gl"), ranks_of(world.experts, world.shapes))
    state = contents[1].array_records["state"]
    assert (state["router"].stype, state["experts"].stype) == ("fedmore.fp32", "fedmore.bf16")
    found = read_route_request(contents[1]).router().state_dict()
    wanted = log[0][2].router().state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert list(read_route_request(contents[1]).experts(world.shapes)) == ["legal", "gl"]


def test_interrupted_after_any_round_the_result_is_the_same(fake_grid, start, trio):
    straight, _ = start(fake_grid(trio()), 3)
    for done in (1, 2):
        grid = fake_grid(trio())
        before, _ = start(grid, done)
        after, log = start(grid, 3 - done, done=done, state=restore(dump(before.state)))
        assert [number for number, _, _ in log] == list(range(done + 1, 4))
        assert dump(after.state) == dump(straight.state)


def test_a_failing_client_is_left_out_and_named(fake_grid, start, trio, world):
    everybody = trio()

    def fail(_message, _answer):
        everybody[0].spoil = None  # the next time it works
        raise DataError("no text in it")

    everybody[0].spoil = fail
    strategy, log = start(fake_grid(everybody), 2)
    assert log[0][1]["failures"] == ["b: DataError: no text in it"]
    assert set(log[0][1]["clients"]) == {"a", "g"}
    assert_moved(log[0][2], moved(world.initial(world.experts), everybody[1:], [1]))
    assert log[1][1]["failures"] == []
    assert (strategy.state.updates("a"), strategy.state.updates("b")) == (2, 1)


def test_who_does_not_say_who_it_is_is_named(fake_grid, start, trio):
    grid = fake_grid(trio()[1:])
    grid.clients[99] = Silent()
    _, log = start(grid, 1)
    assert log[0][1]["failures"] == ["node 99: DataError: unreadable"]


class Silent:
    """A client that cannot even say who it is."""

    def answer(self, _message):
        raise DataError("unreadable")


def test_who_does_not_answer_in_time_is_named(fake_grid, start, trio):
    everybody = trio()
    everybody[2].spoil = lambda *_: None
    _, log = start(fake_grid(everybody), 1)
    assert log[0][1]["failures"] == ["a: no answer in time"]
    assert set(log[0][1]["clients"]) == {"b", "g"}


def test_what_comes_late_is_refused(fake_grid, start, trio):
    """It is of a router that is not there any more, whatever the stage says of late updates."""
    everybody = trio()
    grid = fake_grid(everybody)
    withdrawn = []
    grid.withdraw = lambda ids, reason: withdrawn.extend(ids)

    def late(message, answer):
        everybody[2].spoil = None
        grid.late = message, answer

    def deliver_both(_message, answer):
        message, earlier = grid.late
        grid.replies[message.metadata.message_id] = make_reply(message, earlier)
        return answer

    everybody[2].spoil = late
    stage = RouterStage(codec="fp32", learning_rate=0.1, deadline_s=1e-3, quorum_fraction=0.5)
    assert not stage.keeps_late
    first, log = start(grid, 1, stage)
    assert log[0][1]["failures"] == ["a: no answer in time"]
    assert withdrawn == [grid.late[0].metadata.message_id]
    everybody[0].spoil = deliver_both
    strategy, log = start(grid, 1, stage, 1, first.state)
    assert (strategy.state.updates("a"), log[0][1]["failures"]) == (1, [])
