"""Mirrors of aggregates over the rounds of a stage: who is sent what, and after interruptions."""

import pytest
from assertions import same
from flwr.app import ArrayRecord
from stages import OWN_FACTORS

from fedmore.experts.errors import DataError
from fedmore.experts.factors import ranks
from fedmore.strategies.expert_stage.progress import Progress
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import TRAIN

STAGE = ExpertStage(steps=2, learning_rate=0.1, download_codec="sign1", **OWN_FACTORS)


@pytest.fixture
def start(shapes, new_log):
    """Call it with a grid: trains on from `states` and returns them."""

    def run(grid, rounds, states=None, done=0, stage=STAGE, gone=()):
        progress = Progress(done, states or {})
        strategy = ExpertStrategy(stage, shapes, 7, new_log(), progress, lambda: set(gone))
        strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=rounds, timeout=0.2)
        return strategy.states

    return run


def kinds(grid, name):
    """What each of a client's training tasks held of the aggregate."""
    sent = (set(content.array_records["state"]) for content in grid.tasks()[name])
    return [next(iter(found - {"component"}), None) for found in sent]


def test_owners_are_sent_a_whole_one_and_then_moves(fake_grid, clients, start):
    everybody = clients()
    grid = fake_grid(everybody)
    states = start(grid, 4)
    b, a, m, _ = everybody
    assert kinds(grid, "a") == kinds(grid, "b") == [None, "aggregate", "move", "move"]
    assert kinds(grid, "m") == [None] * 4
    assert same(a.mirror, states["legal"].mirror)
    assert same(b.mirror, states["legal"].mirror)
    assert (m.mirror, states["medical"].mirror) == ({}, {})
    assert same(a.seen[-1], a.mirror)


def test_what_the_codec_cost_is_told(fake_grid, clients, shapes, new_log):
    log, grid = new_log(), fake_grid(clients())
    strategy = ExpertStrategy(STAGE, shapes, 7, log)
    strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=3, timeout=0.2)
    told = [metrics["experts"]["legal"].get("download_error") for _, metrics, _ in log]
    assert told[0] is None
    assert 0 < told[1] < 0.01 < told[2] < 0.6
    assert "download_error" not in log[-1][1]["experts"]["medical"]


def test_fine_codecs_know_no_mirror(fake_grid, clients, start):
    everybody = clients()
    grid = fake_grid(everybody)
    fine = ExpertStage(steps=2, learning_rate=0.1, **OWN_FACTORS)
    states = start(grid, 3, stage=fine)
    assert kinds(grid, "a") == [None, "aggregate", "aggregate"]
    assert everybody[0].mirror == states["legal"].mirror == {}


def test_the_aggregate_does_not_depend_on_the_mirror(fake_grid, clients, start):
    """These clients do not look at what they are sent: only the coordinator's sum is compared."""
    fine = ExpertStage(steps=2, learning_rate=0.1, **OWN_FACTORS)
    mirrored = start(fake_grid(clients()), 3)["legal"]
    whole = start(fake_grid(clients()), 3, stage=fine)["legal"]
    assert mirrored.mirror
    assert same(mirrored.aggregate, whole.aggregate)


def test_who_lost_its_mirror_is_sent_it_whole(fake_grid, clients, start):
    everybody = clients()
    grid = fake_grid(everybody)
    states = start(grid, 3)
    everybody[1].mirror = {}
    states = start(grid, 1, states, done=3)
    assert kinds(grid, "a")[-1] == "aggregate"
    assert kinds(grid, "b")[-1] == "move"
    assert same(everybody[1].mirror, states["legal"].mirror)
    assert same(everybody[0].mirror, states["legal"].mirror)


def test_who_failed_a_round_is_sent_it_whole(fake_grid, clients, start, spoiling):
    everybody = clients()
    grid = fake_grid(everybody)
    states = start(grid, 2)
    away = everybody[1]
    train, away.train = away.train, lambda _: (_ for _ in ()).throw(DataError("no disk"))
    states = start(grid, 1, states, done=2)
    away.train = train
    states = start(grid, 1, states, done=3)
    assert kinds(grid, "a") == [None, "aggregate", "move", "aggregate"]
    assert same(away.mirror, states["legal"].mirror)


def test_a_withdrawn_owner_leaves_no_trace_in_what_is_sent(fake_grid, fake_client, start):
    everybody = [fake_client("a"), fake_client("b", rank=4), fake_client("c", rank=3)]
    grid = fake_grid(everybody)
    states = start(grid, 3)
    states = start(grid, 1, states, done=3, gone="c")
    assert states["legal"].mirror == {}
    states = start(grid, 1, states, done=4, gone="c")
    assert kinds(grid, "a")[-1] == "aggregate"
    # What a and b made in rounds of three and of two owners counts differently: 2 * (2 + 4).
    assert set(ranks(everybody[0].mirror).values()) == {12}


def test_interrupted_after_any_round_the_bits_are_the_same(fake_grid, clients, start):
    straight_grid = fake_grid(clients())
    straight = start(straight_grid, 4)
    for done in (2, 3):
        everybody = clients()
        grid = fake_grid(everybody)
        states = restore(dump(start(grid, done)))
        states = start(grid, 4 - done, states, done=done)
        assert dump(states) == dump(straight)
        assert bytes_of(grid) == bytes_of(straight_grid)


def test_a_round_that_is_done_again_sends_the_same(fake_grid, clients, start):
    """As after kill -9 in a round: from the snapshot before it, at clients that had not begun."""
    everybody = clients()
    grid = fake_grid(everybody)
    states = start(grid, 2)
    again, kept = dump(states), [(c.mirror, c.component, c.residual) for c in everybody]
    start(grid, 1, states, done=2)
    for client, (mirror, component, residual) in zip(everybody, kept, strict=True):
        client.mirror, client.component, client.residual = mirror, component, residual
        client.updates = 2
    start(grid, 1, restore(again), done=2)
    sent = bytes_of(grid)
    assert sent["a"][-1] == sent["a"][-2]
    assert sent["b"][-1] == sent["b"][-2]


def bytes_of(grid):
    return {
        name: [[a.data for a in c.array_records["state"].values()] for c in contents]
        for name, contents in grid.tasks(TRAIN).items()
    }
