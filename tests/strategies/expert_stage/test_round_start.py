"""Rounds that begin from the aggregate: one canonical start at both ends, and exact sums."""

import pytest
import torch
from assertions import product
from expert_rounds import train

from fedmore.experts import factors as low_rank
from fedmore.strategies.expert_stage.round_start import FLOOR, rotated, start_of
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.stages.expert import ExpertStage

PATH = "model.layers.0.mlp.up_proj"
FEW = {"steps": 2, "learning_rate": 0.1}


def drawn(rank, seed, size=1.0):
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(20, rank, generator=g), torch.randn(rank, 12, generator=g)
    return {PATH: (b * size, a * size)}


def fresh(rank, seed=9):
    b, a = drawn(rank, seed)[PATH]
    return {PATH: (b * 0, FLOOR * a / a.norm(dim=1, keepdim=True))}


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_start_is_the_leading_part(rank):
    aggregate = drawn(6, 0)
    start = start_of(aggregate, fresh(rank), 2.0)
    u, s, vh = torch.linalg.svd(product(aggregate, PATH))
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    assert float((2.0 * product(start, PATH) - best).norm()) < 1e-6 * float(best.norm())
    assert start[PATH][1].shape == (rank, 12)


def test_where_directions_are_missing_the_fresh_ones_stand():
    start, first = start_of(drawn(2, 0), fresh(5), 2.0), fresh(5)
    assert torch.equal(start[PATH][1][2:], first[PATH][1][2:])
    assert float(start[PATH][0][:, 2:].norm()) == 0
    nothing = {PATH: (torch.zeros(20, 0), torch.zeros(0, 12))}
    for empty in ({}, nothing):
        begun = start_of(empty, fresh(5), 2.0)
        assert all(torch.equal(x, y) for x, y in zip(begun[PATH], first[PATH], strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_in_which_factors_the_aggregate_comes_does_not_matter(seed):
    """A coordinator may send ``(B R)(R^-1 A)`` for any R: the start stays the same."""
    b, a = drawn(4, 0)[PATH]
    g = torch.Generator().manual_seed(seed)
    r = torch.randn(4, 4, generator=g, dtype=torch.float64) * 10.0 ** (seed - 1)
    other = {PATH: (b.double() @ r, torch.linalg.inv(r) @ a.double())}
    for one, two in zip(
        start_of({PATH: (b, a)}, fresh(3), 2.0)[PATH], start_of(other, fresh(3), 2.0)[PATH],
        strict=True,
    ):  # fmt: skip
        assert float((one - two).norm()) < 1e-5 * float(one.norm())


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 30.0])
def test_no_row_of_a_is_shorter_than_a_fresh_one(size):
    b, a = start_of(drawn(4, 0, size), fresh(4), 2.0)[PATH]
    assert float(a.norm(dim=1).min()) > FLOOR * (1 - 1e-5)
    largest = b.gather(0, b.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


def test_what_is_owed_is_turned_and_not_lost():
    aggregate = drawn(4, 0)
    held, owed = start_of(aggregate, fresh(4), 2.0), drawn(4, 5, 0.1)
    moved = {PATH: tuple(t + 0.05 * torch.randn(t.shape) for t in aggregate[PATH])}
    start = start_of(moved, fresh(4), 2.0)
    turned = rotated(owed, held, start)
    for before, after in zip(owed[PATH], turned[PATH], strict=True):
        assert float(after.norm()) == pytest.approx(float(before.norm()), rel=1e-5)
    same = rotated(owed, held, held)
    assert torch.allclose(same[PATH][0], owed[PATH][0], atol=1e-5)


class Dense:
    """FedAvg, dense, of what the clients say they began with and ended with."""

    def __init__(self, rate, momentum):
        self.rate, self.momentum, self.d, self.m = rate, momentum, {}, {}

    def round(self, clients):
        total = sum(client.size for client in clients)
        for path in clients[0].begun[-1]:
            step = sum(
                c.size / total * 2.0 * (product(c.component, path) - product(c.begun[-1], path))
                for c in clients
            )
            self.m[path] = self.momentum * self.m.get(path, 0) + step
            self.d[path] = self.d.get(path, 0) + self.rate * (step + self.momentum * self.m[path])


@pytest.fixture
def start(shapes, new_log):
    def run(grid, stage, rounds=1, states=None, done=0):
        return train(shapes, new_log(), grid, stage, rounds, states, done)

    return run


@pytest.mark.parametrize(
    ("codec", "download", "rate", "momentum"),
    [
        ("fp32", "fp32", 1.0, 0.0),
        ("sign1", "bf16", 1.0, 0.0),
        ("sign1", "sign1", 0.7, 0.5),
        ("nf4", "int8", 0.7, 0.5),
    ],
)
def test_the_aggregate_is_fedavg_of_what_owners_of_any_rank_changed(
    fake_grid, clients, start, codec, download, rate, momentum
):
    stage = ExpertStage(9, codec=codec, download_codec=download, round_start="aggregate",
        server_learning_rate=rate, server_momentum=momentum, **FEW,
    )  # fmt: skip
    everybody = clients()
    grid, dense, states = fake_grid(everybody), Dense(rate, momentum), {}
    for done in range(4):
        strategy, _ = start(grid, stage, 1, states, done)
        states = restore(dump(strategy.states))
        dense.round(everybody[:2])
        for path, exact in dense.d.items():
            off = product(states["legal"].aggregate, path) - exact
            assert float(off.norm()) < 2e-6 * float(exact.norm())
    assert everybody[2].begun[-1] is not None
    assert all(part.factors == {} for part in states["legal"].components.values())
    assert states["legal"].starts == {}


def test_who_lost_its_state_needs_nothing_back(fake_grid, clients, start):
    stage = ExpertStage(9, codec="fp32", round_start="aggregate", **FEW)
    everybody = clients()
    grid = fake_grid(everybody)
    strategy, _ = start(grid, stage, 2)
    everybody[1].forget()
    later, log = start(grid, stage, 1, strategy.states, 2)
    assert log[0][1]["failures"] == []
    assert later.states["legal"].components["a"].updates == 3
    assert everybody[2].seen[-1] is not None, "who is alone is sent its aggregate too"


@pytest.mark.parametrize("done", [1, 2])
def test_interrupted_after_any_round_the_result_is_the_same(fake_grid, clients, start, done):
    stage = ExpertStage(9, round_start="aggregate", server_momentum=0.5, **FEW)
    straight, _ = start(fake_grid(clients()), stage, 3)
    grid = fake_grid(clients())
    before, _ = start(grid, stage, done)
    after, _ = start(grid, stage, 3 - done, restore(dump(before.states)), done)
    assert dump(after.states) == dump(straight.states)


def test_few_bits_go_on_from_their_own():
    with pytest.raises(ValueError, match="round_start: weights of few bits"):
        ExpertStage(round_start="aggregate", weight_bits=1)


def test_ranks_of_starts(fake_grid, clients, start):
    everybody = clients()
    start(fake_grid(everybody), ExpertStage(2, round_start="aggregate", **FEW), 2)
    assert set(low_rank.ranks(everybody[0].begun[-1]).values()) == {4}
    assert set(low_rank.ranks(everybody[1].begun[-1]).values()) == {2}
