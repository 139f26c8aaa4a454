"""Factors that are trained as weights of 1, 2 or 4 bits: what both ends hold, and its bounds."""

import pytest
import torch
from assertions import product
from flwr.app import ArrayRecord
from pydantic import ValidationError
from stages import OWN_FACTORS

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import WireError
from fedmore.strategies.expert_stage.pending import (
    PendingTask,
    from_rows,
    sites_of,
    task_of,
    to_rows,
)
from fedmore.strategies.expert_stage.progress import Progress
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.members import Member
from fedmore.strategies.rounds.update_limits import check_size, check_whole
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.stages.kinds import read_stage
from fedmore.strategies.tasks.train import TRAIN, pack, read_task, update_content

FEW = {"steps": 2, "learning_rate": 0.1}


def stage_of(bits, **values):
    return ExpertStage(weight_bits=bits, **(OWN_FACTORS | FEW | values))


@pytest.fixture
def start(shapes, new_log):
    """Call it with a grid: trains and returns the strategy and its rounds."""

    def run(grid, rounds=3, stage=None, states=None, done=0, gone=frozenset()):
        log = new_log()
        progress = Progress(done, states or {})
        stage = stage or stage_of(1)
        strategy = ExpertStrategy(stage, shapes, 7, log, progress, lambda: gone)
        strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=rounds, timeout=0.2)
        return strategy, log

    return run


def off(found, exact):
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_both_ends_hold_the_weights_in_use_and_nothing_else(fake_grid, clients, start, bits):
    everybody = clients()
    strategy, _ = start(fake_grid(everybody), stage=stage_of(bits))
    for client in everybody[:3]:
        part = strategy.states[client.target].components[client.name]
        assert part.updates == client.updates == 3
        for path, pair in client.component.items():
            assert all(torch.equal(x, y) for x, y in zip(part.factors[path], pair, strict=True))
            assert all(factor.unique().numel() <= 2**bits for factor in part.factors[path])


def test_the_aggregate_is_of_the_weights_in_use(fake_grid, clients, start):
    everybody = clients()
    strategy, log = start(fake_grid(everybody))
    b, a, m, _ = everybody
    for path in strategy.states["legal"].aggregate:
        exact = 2 * (0.75 * product(b.component, path) + 0.25 * product(a.component, path))
        assert off(product(strategy.states["legal"].aggregate, path), exact) < 1e-6
        alone = 2 * product(m.component, path)
        assert off(product(strategy.states["medical"].aggregate, path), alone) < 1e-6
    assert log[-1][1]["failures"] == []


def test_what_a_task_says(fake_grid, clients, start):
    grid = fake_grid(clients())
    start(grid, 1, stage_of(2, codec="nf4"))
    task = read_task(grid.tasks()["a"][0])
    assert (task.weight_bits, task.codec) == (2, "bits2")


def test_a_restarted_coordinator_goes_on_with_the_same_result(fake_grid, clients, start):
    straight, _ = start(fake_grid(clients()), 4)
    grid = fake_grid(clients())
    before, _ = start(grid, 2)
    after, _ = start(grid, 2, states=restore(dump(before.states)), done=2)
    assert dump(after.states) == dump(straight.states)


def test_who_lost_its_state_begins_anew(fake_grid, clients, start):
    everybody = clients()
    grid = fake_grid(everybody)
    strategy, _ = start(grid, 2)
    a = everybody[1]
    a.forget()
    later, log = start(grid, 1, states=strategy.states, done=2)
    assert log[-1][1]["failures"] == []
    assert later.states["legal"].components["a"].updates == a.updates == 1


def test_an_owner_is_withdrawn_exactly(fake_grid, clients, start):
    everybody = clients()
    grid = fake_grid(everybody)
    strategy, _ = start(grid, 2)
    before = everybody[1].component
    left, _ = start(grid, 1, states=strategy.states, done=2, gone={"b"})
    assert set(left.states["legal"].components) == {"a"}
    for path in left.states["legal"].aggregate:
        change = product(everybody[1].component, path) - product(before, path)
        alone = 2 * (product(before, path) / 4 + change)  # its quarter, and then all of it
        assert off(product(left.states["legal"].aggregate, path), alone) < 1e-6


@pytest.mark.parametrize(("size", "taken"), [(1.0, True), (30.0, False)])
def test_weights_that_are_too_large_are_refused(
    fake_grid, clients, start, spoiling, shapes, size, taken
):
    everybody = clients()
    a = everybody[1]
    sites = sites_of(stage_of(1), a.member, shapes)

    def large(answer):
        flat = [torch.randn(t) * size for t in low_rank.shapes(sites, {s.path: 2 for s in sites})]
        return update_content(
            pack("bits1", flat).data, "bits1", dict(answer.metric_records["metrics"])
        )

    a.spoil = spoiling(TRAIN, large)
    strategy, log = start(fake_grid(everybody), 1)
    assert ("a" in strategy.states["legal"].components) == taken
    assert len(log[0][1]["failures"]) == (not taken)
    assert taken or "above the" in log[0][1]["failures"][0]


def test_the_bound_grows_with_the_updates_and_with_where_factors_began():
    factors = {"x": (torch.full((4, 2), 1.0), torch.full((2, 3), 1.0))}
    zeros, ones = low_rank.zeros(factors), factors
    check_whole(factors, zeros, 0.5)
    check_whole(factors, ones, 0.0)
    for begun, moved in ((zeros, 0.4), ({"x": (ones["x"][0], zeros["x"][1])}, 0.4)):
        with pytest.raises(WireError, match=r"a root mean square of 1, above the 0\.8"):
            check_whole(factors, begun, moved)
    with pytest.raises(WireError, match=r"above the 0\.9"):
        check_size(factors, 0.9)


def test_who_was_asked_is_kept_with_the_bits(fake_grid, clients):
    member = Member("a", "expert", "legal", 2, 100, [], [])
    asked = {"1": PendingTask(4, member, task_of(stage_of(4), member, 1, 0, 7))}
    assert from_rows(to_rows(asked)) == asked
    (row,) = to_rows(asked)
    del row["task"]["weight_bits"]
    row["task"]["codec"] = "sign1"
    assert from_rows([row])["1"].task.weight_bits == 0


def test_a_stage_says_how_its_updates_travel():
    assert [stage_of(bits).update_codec for bits in (0, 1, 2, 4)] == [
        "sign1", "bits1", "bits2", "bits4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "experts", "weight_bits": 3}, "weight_bits"),
        ({"kind": "experts", "weight_bits": "1"}, "weight_bits"),
        ({"kind": "router", "weight_bits": 1}, "weight_bits"),
        ({"kind": "routing", "weight_bits": 1}, "weight_bits"),
        ({"kind": "experts", "codec": "bits1"}, "'bits1' is for weights .*: set weight_bits"),
        ({"kind": "experts", "codec": "auto,factor_b=bits2"}, "set weight_bits"),
        ({"kind": "experts", "download_codec": "bits4"}, "set weight_bits"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(values, says):
    with pytest.raises(ValidationError, match=says):
        read_stage(values)
