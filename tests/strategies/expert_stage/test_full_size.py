"""Rounds of an expert with owners of full size, alone and among owners of low rank."""

import pytest
import torch
from assertions import same
from expert_rounds import train
from stages import OWN_FACTORS

from fedmore.experts import factors as low_rank
from fedmore.experts.factors import WHOLE
from fedmore.experts.ranks import FULL
from fedmore.experts.spec import ExpertSpec
from fedmore.kernels.grouped_lowrank.factors import matrix_of
from fedmore.strategies.compression.codec import CODECS, encode
from fedmore.strategies.expert_stage.aggregate_mirror import broadcast
from fedmore.strategies.expert_stage.round_start import start_of
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import without
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import METRICS, TRAIN, read_update, update_content

STAGE = ExpertStage(steps=2, learning_rate=0.1, **OWN_FACTORS)
RULES = ("mean", "clipped", "krum", "multi_krum", "trimmed_mean", "median")


def scale_of(client):
    return 1.0 if client.rank == FULL else 2.0


def dense(client, path):
    return scale_of(client) * matrix_of([f.double() for f in client.component[path]])


def distance(found, exact):
    return float((matrix_of(found).double() - exact).norm() / exact.norm())


@pytest.fixture
def start(shapes, new_log):
    """Call it with a grid: trains and returns the strategy and its rounds."""

    def run(grid, rounds=3, stage=STAGE):
        return train(shapes, new_log(), grid, stage, rounds)

    return run


@pytest.fixture
def two(clients):
    """Call it with the ranks of the two owners of one expert."""

    def make(*ranks):
        owners = clients()[:2]
        for owner, rank in zip(owners, ranks, strict=True):
            owner.rank, owner.ranks = rank, "" if rank else "full"
        return owners

    return make


@pytest.mark.parametrize("codec", ["fp32", "bf16", "nf4", "sign1", "bitdelta"])
@pytest.mark.parametrize("ranks", [(FULL, 3), (4, FULL), (FULL, FULL)])
def test_the_aggregate_is_the_dense_fedavg(fake_grid, two, start, ranks, codec):
    """Float64 FedAvg of what both ends hold; nothing is cut at max_rank; exact after a resume."""
    owners = two(*ranks)
    stage = ExpertStage(steps=2, learning_rate=0.1, **OWN_FACTORS, codec=codec, max_rank=1)
    strategy, log = start(fake_grid(owners), stage=stage)
    state = restore(dump(strategy.states))["legal"]
    b, a = owners
    for path, found in state.aggregate.items():
        assert len(found) == 1
        assert distance(found, 0.75 * dense(b, path) + 0.25 * dense(a, path)) < 1e-6
        for owner in owners:
            held = state.components[owner.name].factors[path]
            assert all(map(torch.equal, held, owner.component[path]))
    told = log[-1][1]["experts"]["legal"]
    assert told["aggregation_error"] < 1e-6
    assert told["exact_withdrawal"]


def test_a_withdrawal_leaves_the_others_exactly(fake_grid, two, start):
    owners = two(FULL, 3)
    strategy, _ = start(fake_grid(owners))
    b, a = owners
    left, error = without(strategy.states["legal"], {"b"}, 512)
    assert error < 1e-6
    for path, found in left.aggregate.items():
        assert len(found) == 2, "the sum of products is a product again"
        assert distance(found, 0.25 * dense(a, path)) < 1e-6
    left, _ = without(strategy.states["legal"], {"a"}, 512)
    for path, found in left.aggregate.items():
        assert distance(found, 0.75 * dense(b, path)) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_takes_full_size_changes(fake_grid, two, start, rule):
    """Of equal owners each rule gives what it gives for their changes as matrices."""
    b, a = owners = two(FULL, 3)
    stage = ExpertStage(steps=2, learning_rate=0.1, **OWN_FACTORS, aggregation=rule)
    strategy, log = start(fake_grid(owners), 1, stage)
    state = strategy.states["legal"]
    assert log[-1][1]["experts"]["legal"]["aggregation_error"] < 1e-6
    for path, found in state.aggregate.items():
        pair = dense(b, path), dense(a, path)
        if rule in ("trimmed_mean", "median"):
            assert distance(found, sum(pair) / 2) < 1e-6
        elif rule == "mean":
            assert distance(found, 0.75 * pair[0] + 0.25 * pair[1]) < 1e-6
        else:
            weights = [state.components[name].weight for name in "ba"]
            assert distance(found, sum(w * m for w, m in zip(weights, pair, strict=True))) < 1e-6


def test_multi_krum_leaves_a_liar_of_full_size_out(fake_grid, fake_client, start, shapes):
    """Its change is fifty times as large; the honest owners' are of both forms."""
    ranks = {"a": FULL, "b": FULL, "c": 2, "d": FULL, "liar": FULL}
    owners = [
        fake_client(name, rank=rank, ranks="" if rank else "full") for name, rank in ranks.items()
    ]

    def shout(kind, answer):
        if kind != TRAIN:
            return answer
        sites = ExpertSpec("x", "expert", "x", FULL, ranks="full").sites(shapes)
        change = read_update(answer, sites, {s.path: WHOLE for s in sites}, "fp32")
        loud = [50 * tensor for tensor in low_rank.tensors(change, sites)]
        return update_content(encode(CODECS["fp32"], loud), "fp32", dict.fromkeys(METRICS, 1))

    owners[-1].spoil = shout
    stage = ExpertStage(
        steps=2,
        learning_rate=0.1,
        **OWN_FACTORS,
        aggregation="multi_krum",
        codec="fp32",
        max_rms=10.0,
    )
    strategy, _ = start(fake_grid(owners), 1, stage)
    assert strategy.states["legal"].chosen == ("a", "b", "c", "d")


@pytest.mark.parametrize("download", ["bf16", "sign1"])
@pytest.mark.parametrize("ranks", [(FULL, 3), (FULL, FULL)])
def test_every_owner_begins_from_the_aggregate(fake_grid, two, start, ranks, download):
    """Both ends derive the same start: the aggregate itself, or its leading directions."""
    owners = two(*ranks)
    stage = ExpertStage(
        steps=2, learning_rate=0.1, round_start="aggregate", download_codec=download
    )
    strategy, log = start(fake_grid(owners), 3, stage)
    assert log[-1][1]["failures"] == []
    for owner in owners:
        begun, seen = owner.begun[-1], owner.seen[-1]
        for path, found in begun.items():
            if owner.rank == FULL:
                assert torch.equal(found[0], seen[path][0])
                continue
            u, s, vh = torch.linalg.svd(seen[path][0].double(), full_matrices=False)
            best = (u[:, :3] * s[:3]) @ vh[:3]
            assert distance(found, best / 2.0) < 1e-5
    assert not strategy.states["legal"].is_nothing


def test_the_leading_directions_of_a_large_matrix_are_found():
    """By a sketch; the spectrum falls as that of trained changes does."""
    g = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(300, 200, generator=g, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(200, 200, generator=g, dtype=torch.float64)).Q
    s = 0.9 ** torch.arange(200, dtype=torch.float64)
    d = ((u * s) @ v.T).float()
    fresh = {"x": (torch.zeros(300, 4), torch.ones(4, 200))}
    start = start_of({"x": (d,)}, fresh, 1.0)["x"]
    best = (u[:, :4] * s[:4]) @ v[:, :4].T
    assert distance(start, best) < 1e-4


def test_mirrors_of_full_size_move_by_one_bit(fake_grid, two, start):
    owners = two(FULL, 3)
    stage = ExpertStage(steps=2, learning_rate=0.1, **OWN_FACTORS, download_codec="sign1")
    strategy, log = start(fake_grid(owners), 4, stage)
    for owner in owners:
        assert same(owner.mirror, strategy.states["legal"].mirror)
        assert set(low_rank.ranks(owner.mirror).values()) == {WHOLE}
    assert 0 < log[-1][1]["experts"]["legal"]["download_error"] < 0.6


def test_a_mirror_of_the_other_form_is_sent_whole(random_factors, shapes):
    sites = ExpertSpec("x", "expert", "x", 2).sites(shapes)
    pairs = random_factors(sites, 2)
    full = {path: (b @ a,) for path, (b, a) in pairs.items()}
    for aggregate, held in ((full, pairs), (pairs, full)):
        cast = broadcast(aggregate, held, "sign1", sites)
        assert (cast.move, cast.upon) == (b"", 0)
