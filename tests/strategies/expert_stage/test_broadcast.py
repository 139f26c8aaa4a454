"""What several owners are sent of an expert that is larger than they can take."""

import pytest
import torch
from assertions import product, same
from expert_rounds import train
from stages import OWN_FACTORS

from fedmore.experts.factors import ranks
from fedmore.kernels.lowrank_sum.cpu import aggregate
from fedmore.strategies.expert_stage.downloads import leading
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import TRAIN

STARTS = ["own", "aggregate"]
CODECS = ["bf16", "sign1"]
RANK = 3


@pytest.fixture
def start(shapes, new_log):
    """Call it with a grid: trains and returns the states and the rounds' metrics."""

    def run(grid, rounds=3, states=None, done=0, **changed):
        few = {"steps": 2, "learning_rate": 0.1, "codec": "fp32", "rounds": 9}
        stage = ExpertStage(**(OWN_FACTORS | few | changed))
        strategy, log = train(shapes, new_log(), grid, stage, rounds, states, done)
        return strategy.states, [metrics for _, metrics, _ in log]

    return run


@pytest.fixture
def crowd(fake_client):
    """Twelve owners of one expert."""

    def make():
        return [fake_client(f"o{k:02}", rank=1 + k % 4, size=50 + k) for k in range(12)]

    return make


def test_what_is_cut_is_the_nearest_of_that_rank():
    """By the dense matrix's singular values, and not by `leading` itself."""
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(12, 6, generator=generator)
    a = torch.randn(6, 9, generator=generator)
    (factors,) = [tuple(f.float() for f in aggregate([(b, a, 1.0)], 6))]
    cut = leading({"x": factors}, RANK)
    values = torch.linalg.svdvals((b @ a).double())
    lost = float(values[RANK:].norm())
    off = float(((b @ a).double() - product(cut.factors, "x")).norm())
    assert off == pytest.approx(lost, rel=1e-5)
    assert cut.error == pytest.approx(lost / float(values.norm()), rel=1e-5)


def sent_bytes(grid, name):
    """The bytes of an aggregate in a client's last task."""
    content = grid.tasks(TRAIN)[name][-1]
    return sum(len(array.data) for array in content.array_records["state"].values())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("round_start", STARTS)
def test_several_owners_are_sent_the_leading_directions(
    fake_grid, clients, start, round_start, codec
):
    told = {"round_start": round_start, "download_codec": codec, "broadcast_rank": RANK}
    everybody = clients()
    before, _ = start(fake_grid(everybody), 2, **told)
    _, log = start(fake_grid(everybody), 1, before, 2, **told)
    b, a, m, _ = everybody
    cut = leading(before["legal"].aggregate, RANK)
    assert set(ranks(b.seen[-1]).values()) == {RANK}
    assert same(a.seen[-1], b.seen[-1])
    if codec == "bf16":
        for path in cut.factors:
            off = product(b.seen[-1], path) - product(cut.factors, path)
            assert float(off.norm()) < 0.02 * float(product(cut.factors, path).norm())
    figures = log[0]["experts"]["legal"]
    assert figures["broadcast_rank"] == RANK
    assert figures["broadcast_error"] == pytest.approx(cut.error)
    assert 0.01 < cut.error < 1
    if round_start == "own":  # m is alone: its component is all of the expert
        assert m.seen[-1] is None
        assert "broadcast_rank" not in log[0]["experts"]["medical"]
    else:
        assert max(ranks(m.seen[-1]).values()) > 0
        assert log[0]["experts"]["medical"]["broadcast_error"] == 0.0


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("round_start", STARTS)
def test_an_owner_alone_is_as_without_a_limit(fake_grid, fake_client, start, round_start, codec):
    def alone(**changed):
        client = fake_client("m", rank=4)
        told = {"round_start": round_start, "download_codec": codec, **changed}
        return client, start(fake_grid([client]), 4, **told)[0]

    (first, free), (second, limited) = alone(), alone(broadcast_rank=1)
    assert dump(free) == dump(limited)
    assert same(first.component, second.component)
    assert all(
        (x is None and y is None) or same(x, y)
        for x, y in zip(first.seen, second.seen, strict=True)
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("round_start", STARTS)
def test_both_ends_hold_the_same_over_cut_broadcasts(fake_grid, crowd, start, round_start, codec):
    """Contributions are of what was sent, so the sum is exact although no owner has seen it all."""
    everybody = crowd()
    told = {"round_start": round_start, "download_codec": codec, "broadcast_rank": RANK}
    states, log = start(fake_grid(everybody), 3, **told)
    assert [failure for metrics in log for failure in metrics["failures"]] == []
    state = states["legal"]
    for client in everybody:
        if round_start == "own":
            assert same(client.component, state.components[client.name].factors)
    assert log[-1]["experts"]["legal"]["aggregation_error"] < 1e-6
    assert state.rank > RANK
    if codec == "sign1":
        assert same(everybody[0].mirror, state.mirror)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("round_start", STARTS)
def test_interrupted_over_cut_broadcasts_the_bits_are_the_same(
    fake_grid, clients, start, round_start, codec
):
    told = {"round_start": round_start, "download_codec": codec, "broadcast_rank": RANK}
    straight, _ = start(fake_grid(clients()), 4, **told)
    grid = fake_grid(clients())
    half, _ = start(grid, 2, **told)
    assert dump(start(grid, 2, restore(dump(half)), 2, **told)[0]) == dump(straight)


def test_a_lower_limit_sends_a_mirror_anew(fake_grid, clients, start):
    everybody = clients()
    grid = fake_grid(everybody)
    told = {"download_codec": "sign1"}
    states, _ = start(grid, 3, **told)
    assert max(ranks(everybody[0].mirror).values()) == 6
    start(grid, 1, states, 3, broadcast_rank=2, **told)
    assert set(ranks(everybody[0].mirror).values()) == {2}


def test_what_twelve_owners_cost_is_bounded_and_told(fake_grid, crowd, start):
    """The ranks of twelve add up to 30; with the limits 12 are kept and 3 sent."""
    limits = {"max_rank": 8, "broadcast_rank": RANK, "aggregate_energy": 0.9}
    rows = {}
    for name, told in {"all": {}, "limited": limits}.items():
        grid = fake_grid(crowd())
        _, log = start(grid, 3, **told)
        rows[name] = log[-1]["experts"]["legal"]
        each = {client: sent_bytes(grid, client) for client in grid.tasks()}
        assert rows[name]["download_bytes"] == sum(each.values())
        assert rows[name]["download_bytes_per_owner"] == max(each.values())
        assert log[-1]["clients"]["o03"]["download_bytes"] == each["o03"]
    every, limited = rows["all"], rows["limited"]
    assert every["summed_rank"] == limited["summed_rank"] == 30
    assert (every["rank"], limited["rank"]) == (12, 8)
    assert every["aggregation_error"] < 1e-6 < 0.1 < limited["aggregation_error"] < 1
    assert (every["broadcast_error"], every["broadcast_rank"]) == (0.0, 12)
    assert limited["broadcast_rank"] == RANK
    assert 0 < limited["broadcast_error"] < 1
    assert limited["download_bytes"] * 4 == every["download_bytes"]
    assert limited["stored_bytes"] < every["stored_bytes"]


def test_owners_share_one_encoded_array(fake_grid, crowd, start):
    """A hundred messages of hundreds of megabytes must not be a hundred copies."""
    grid = fake_grid(crowd())
    start(grid, 2, broadcast_rank=RANK)
    last = [contents[-1].array_records["state"]["aggregate"] for contents in grid.tasks().values()]
    assert len({id(array.data) for array in last}) == 1


@pytest.mark.parametrize("energy", [0.5, 0.99])
def test_a_share_of_the_energy_costs_what_it_leaves(fake_grid, clients, start, energy):
    _, log = start(fake_grid(clients()), 2, aggregate_energy=energy)
    told = log[-1]["experts"]["legal"]
    assert told["rank"] <= told["summed_rank"]
    assert 0 < told["aggregation_error"] <= (1 - energy) ** 0.5


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"aggregate_energy": 0.0}, "aggregate_energy"),
        ({"aggregate_energy": 1.1}, "aggregate_energy"),
        ({"broadcast_rank": -1}, "broadcast_rank"),
        ({"broadcast_rank": 9, "max_rank": 8}, "broadcast_rank 9 is above max_rank 8"),
    ],
)
def test_limits_that_mean_nothing_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        ExpertStage(**wrong)


def test_the_leading_part_is_the_best_of_its_rank():
    b, _ = torch.linalg.qr(torch.randn(20, 5))
    a, _ = torch.linalg.qr(torch.randn(16, 5))
    sizes = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    cut = leading({"x": (b * sizes.sqrt(), (a * sizes.sqrt()).T)}, 2)
    assert cut.rank == 2
    assert cut.error == pytest.approx((14 / 55) ** 0.5, rel=1e-5)
