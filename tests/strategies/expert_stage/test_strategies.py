"""The training stages over a grid in memory, with clients that do what real ones do."""

import pytest
import torch
from assertions import product
from expert_rounds import train
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from stages import OWN_FACTORS

from fedmore.experts.errors import DataError, RoundError
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import without
from fedmore.strategies.members import HELLO, ask_members
from fedmore.strategies.rounds.quorum_grid import RoundGrid
from fedmore.strategies.stages.expert import ExpertStage, LanguageStage
from fedmore.strategies.tasks.train import METRICS, TRAIN, read_task

STAGE = ExpertStage(steps=2, learning_rate=0.1, **OWN_FACTORS)


@pytest.fixture
def start(shapes, new_log):
    """Call it with a grid: trains and returns the strategy and its rounds."""

    def run(grid, rounds=3, stage=STAGE, states=None, done=0):
        return train(shapes, new_log(), grid, stage, rounds, states, done)

    return run


def test_aggregates_are_the_weighted_sum_of_what_the_clients_hold(fake_grid, clients, start):
    everybody = clients()
    strategy, log = start(fake_grid(everybody))
    b, a, m, g = everybody
    assert set(strategy.states) == {"legal", "medical"}
    for path in strategy.states["legal"].aggregate:
        exact = 2 * (0.75 * product(b.component, path) + 0.25 * product(a.component, path))
        found = product(strategy.states["legal"].aggregate, path)
        assert float((found - exact).norm() / exact.norm()) < 1e-6
        alone = 2 * product(m.component, path)
        found = product(strategy.states["medical"].aggregate, path)
        assert float((found - alone).norm() / alone.norm()) < 1e-6
    assert (strategy.states["legal"].rank, strategy.states["medical"].rank) == (6, 3)
    assert [number for number, _, _ in log] == [1, 2, 3]
    assert g.updates == 0
    metrics = log[-1][1]
    assert set(metrics["clients"]) == set("abm")
    assert metrics["experts"]["legal"]["aggregation_error"] < 1e-6
    assert (metrics["stage"], metrics["round"], metrics["failures"]) == ("experts", 3, [])


def test_mirrored_components_are_the_clients_own(fake_grid, clients, start):
    everybody = clients()
    strategy, _ = start(fake_grid(everybody))
    for client in everybody[:3]:
        part = strategy.states[client.target].components[client.name]
        assert part.updates == client.updates == 3
        for path, pair in client.component.items():
            assert all(torch.equal(x, y) for x, y in zip(part.factors[path], pair, strict=True))


def test_the_language_stage_asks_the_adapters(fake_grid, clients, start):
    grid = fake_grid(clients())
    strategy, _ = start(grid, 1, LanguageStage(learning_rate=0.1, first_layers=1, last_layers=1))
    assert set(grid.tasks()) == {"g"}
    assert set(strategy.states) == {"gl"}
    assert (ExpertStage.trains, LanguageStage.trains) == ("expert", "adapter")


@pytest.mark.parametrize("order", [None, 2, 4])
def test_the_order_of_replies_does_not_matter(fake_grid, clients, start, order):
    expected, _ = start(fake_grid(clients(), seed=0))
    found, _ = start(fake_grid(clients(), seed=order))
    assert dump(found.states) == dump(expected.states)


def test_what_a_task_says(fake_grid, clients, start):
    grid = fake_grid(clients())
    start(grid, 2)
    first, second = (read_task(content) for content in grid.tasks()["a"])
    assert (first.round, second.round) == (1, 2)
    assert (first.updates, second.updates) == (0, 1)
    assert (first.rank, first.target, first.expert, first.seed) == (2, "legal", "legal", 7)
    assert (first.codec, first.rounds, first.stage) == ("sign1", 3, "experts")


def test_the_aggregate_goes_to_those_who_share_it(fake_grid, clients, start):
    everybody = clients()
    start(fake_grid(everybody), 2)
    b, a, m, _ = everybody
    assert a.seen[0] is None
    assert b.seen[1] is not None
    assert a.seen[1] is not None
    assert m.seen[1] is None


def test_who_lost_its_state_begins_anew_and_nothing_it_did_is_lost(fake_grid, clients, start):
    """What it did before stays in its contribution; what it begins from is its own."""
    everybody = clients()
    grid = fake_grid(everybody)
    strategy, _ = start(grid, 2)
    a, path = everybody[1], next(iter(strategy.states["legal"].aggregate))
    before = product(strategy.states["legal"].aggregate, path)
    a.forget()
    later, log = start(grid, 1, states=strategy.states, done=2)
    assert log[0][1]["failures"] == []
    state = later.states["legal"]
    assert state.components["a"].updates == a.updates == 1
    for where, pair in a.component.items():
        held = state.components["a"].factors[where]
        assert all(torch.equal(x, y) for x, y in zip(pair, held, strict=True))
    assert a.seen[-1] is not None
    moved = product(state.aggregate, path) - before
    assert 0 < float(moved.norm()) < float(before.norm())
    gone, _ = without(state, {"a"}, 512)
    assert gone.owners == ["b"]


def test_who_is_ahead_goes_on_from_before(fake_grid, clients, start):
    """It did a task whose answer never arrived: nothing is lost, and nothing is sent back."""
    everybody = clients()
    grid = fake_grid(everybody)
    strategy, _ = start(grid, 1)
    a = everybody[1]
    a.updates += 1
    later, _ = start(grid, 1, states=strategy.states, done=1)
    assert later.states["legal"].components["a"].updates == 2


def test_a_failing_client_is_left_out_and_named(fake_grid, clients, start, spoiling):
    everybody = clients()
    everybody[1].spoil = spoiling(TRAIN, DataError("no text in it"))
    strategy, log = start(fake_grid(everybody), 1)
    assert log[0][1]["failures"] == ["a: DataError: no text in it"]
    assert set(log[0][1]["clients"]) == {"b", "m"}
    assert set(strategy.states["legal"].components) == {"b"}
    path = next(iter(strategy.states["legal"].aggregate))
    alone = 2 * product(everybody[0].component, path)
    found = product(strategy.states["legal"].aggregate, path)
    assert float((found - alone).norm() / alone.norm()) < 1e-6


def test_who_does_not_answer_is_named(fake_grid, clients, start, spoiling):
    everybody = clients()
    everybody[1].spoil = spoiling(TRAIN, lambda _: None)
    _, log = start(fake_grid(everybody), 1)
    assert log[0][1]["failures"] == ["a: no answer in time"]


def hostile(answer, **changes):
    return RecordDict({**answer, **changes})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: RecordDict(),
        lambda answer: hostile(answer, metrics=MetricRecord({"loss": 1.0})),
        lambda answer: hostile(answer, metrics=ConfigRecord({"loss": "x"})),
        lambda answer: hostile(
            answer, metrics=MetricRecord(dict.fromkeys(METRICS, 1) | {"loss": float("nan")})
        ),
        lambda answer: hostile(
            answer, update=ArrayRecord({"change": Array("uint8", (1,), "fedmore.sign1", b"x")})
        ),
        lambda answer: hostile(
            answer, update=ArrayRecord({"change": Array("uint8", (1,), "numpy.ndarray", b"x")})
        ),
    ],
)
def test_a_hostile_answer_fails_its_client_alone(fake_grid, clients, start, spoil, spoiling):
    everybody = clients()
    everybody[0].spoil = spoiling(TRAIN, spoil)
    strategy, log = start(fake_grid(everybody), 1)
    (failure,) = log[0][1]["failures"]
    assert failure.startswith("b: ")
    assert set(strategy.states["legal"].components) == {"a"}
    assert set(log[0][1]["clients"]) == {"a", "m"}


def test_when_all_fail_every_cause_is_told(fake_grid, clients, start, spoiling):
    everybody = clients()
    for client, cause in zip(everybody, ("no text", "no memory", "no time", ""), strict=True):
        client.spoil = spoiling(TRAIN, DataError(cause))
    with pytest.raises(RoundError, match=r"no client succeeded: a: .*no memory; b: .*no text; m: "):
        start(fake_grid(everybody), 1)


def test_a_failed_client_comes_back_in_the_next_round(fake_grid, clients, start, spoiling):
    everybody = clients()
    grid = fake_grid(everybody)
    everybody[1].spoil = spoiling(TRAIN, DataError("busy"))
    strategy, _ = start(grid, 1)
    everybody[1].spoil = None
    later, log = start(grid, 1, states=strategy.states, done=1)
    assert log[0][1]["failures"] == []
    assert later.states["legal"].components["a"].updates == 1
    assert everybody[1].seen[-1] is not None


def test_a_stage_without_clients_is_an_error(fake_grid, fake_client, start):
    with pytest.raises(RoundError, match="no client trains for the stage 'language'"):
        start(fake_grid([fake_client("a")]), 1, LanguageStage())


def test_interrupted_after_any_round_the_result_is_the_same(fake_grid, clients, start):
    straight, _ = start(fake_grid(clients()), 4)
    for done in (1, 2, 3):
        grid = fake_grid(clients())
        before, _ = start(grid, done)
        states = restore(dump(before.states))
        after, log = start(grid, 4 - done, states=states, done=done)
        assert [number for number, _, _ in log] == list(range(done + 1, 5))
        assert dump(after.states) == dump(straight.states)


def test_members_say_who_they_are_in_order_of_name(fake_grid, clients):
    grid = fake_grid(clients())
    found, missing = ask_members(grid, 5, "g/1")
    assert missing == []
    assert [(node, member.name) for node, member in found] == [
        (12, "a"), (11, "b"), (14, "g"), (13, "m")
    ]  # fmt: skip
    assert found[0][1].updates_of("legal") == 0


@pytest.mark.parametrize(
    "answer", [RecordDict(), RecordDict({"member": ConfigRecord({"name": "x", "rank": "2"})})]
)
def test_who_does_not_say_who_it_is_is_refused(fake_grid, clients, answer, spoiling):
    everybody = clients()
    everybody[2].spoil = spoiling(HELLO, lambda _: answer)
    found, missing = ask_members(fake_grid(everybody), 5, "g/1")
    assert 13 not in dict(found)
    assert len(missing) == 1
    assert missing[0].startswith("node 13: does not say who it is")


def test_who_does_not_say_who_it_is_has_a_name_where_the_grid_knows_it(
    fake_grid, clients, spoiling, monkeypatch
):
    everybody = clients()
    everybody[2].spoil = spoiling(HELLO, lambda _: RecordDict())
    grid = fake_grid(everybody)
    monkeypatch.setattr(type(grid), "name_of", lambda _, node: f"site.{node}", raising=False)
    for asked in (grid, RoundGrid(grid, ExpertStage())):
        _, missing = ask_members(asked, 5, "g/1")
        assert missing[0].startswith("site.13: does not say who it is")


def test_who_cannot_say_who_it_is_is_left_out_with_its_cause(fake_grid, clients, start, spoiling):
    everybody = clients()
    everybody[2].spoil = spoiling(HELLO, DataError("unreadable"))
    _, log = start(fake_grid(everybody), 1)
    assert log[0][1]["failures"] == ["node 13: DataError: unreadable"]
    assert "m" not in log[0][1]["clients"]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [("size", 0, "says that it has no text"), ("rank", 99, "rank 99 of legal: ")],
)
def test_who_cannot_take_part_is_left_out_with_a_reason(
    fake_grid, clients, start, field, value, why
):
    everybody = clients()
    setattr(everybody[1], field, value)
    strategy, log = start(fake_grid(everybody), 1)
    (told,) = log[0][1]["failures"]
    assert told.startswith(f"a: {why}")
    assert set(log[0][1]["clients"]) == {"b", "m"}
    assert set(strategy.states["legal"].components) == {"b"}


def test_nobody_left_ends_the_stage_with_every_cause(fake_grid, clients, start, spoiling):
    everybody = clients()
    for client in everybody:
        client.spoil = spoiling(HELLO, DataError("unreadable"))
    with pytest.raises(RoundError, match=r"no client trains.*node 11: DataError.*node 12"):
        start(fake_grid(everybody), 1)
