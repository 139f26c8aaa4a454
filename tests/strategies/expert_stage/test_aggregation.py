"""Krum and the trimmed mean on cores, against the same on dense products."""

import random

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord

from fedmore.experts.spec import TargetModule
from fedmore.protos.wire.flower_compat import identify
from fedmore.strategies.expert_stage.advice import unguarded
from fedmore.strategies.expert_stage.aggregation import MEAN, Krum, TrimmedMean, rule_of, shares
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.cores import shared_basis
from fedmore.strategies.expert_stage.state import fresh
from fedmore.strategies.expert_stage.step import advance
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.stages.kinds import read_stage

SITES = (
    TargetModule("model.layers.0.mlp.up_proj", 30, 20),
    TargetModule("model.layers.0.mlp.down_proj", 20, 30),
)


@pytest.fixture(autouse=True)
def identity():
    identify()


def change(name, after, weight=1.0):
    """A first change, from factors that change nothing."""
    before = {path: (torch.zeros_like(b), a) for path, (b, a) in after.items()}
    return Change(name, before, after, weight, 2.0)


def owner(name, rank, seed, centre=None, noise=0.1, weight=1.0):
    g = torch.Generator().manual_seed(seed)
    after = {}
    for s in SITES:
        b = torch.randn(s.out_features, rank, generator=g) * noise
        a = torch.randn(rank, s.in_features, generator=g) * noise
        if centre is not None:
            b, a = b + centre[s.path][0][:, :rank], a + centre[s.path][1][:rank]
        after[s.path] = (b, a)
    return change(name, after, weight)


@pytest.fixture
def crowd():
    """Six owners that agree, of mixed ranks, and one that does not."""
    centre = owner("", 6, 99, noise=1.0).after
    good = [owner(f"g{k}", 4 + k % 3, k, centre) for k in range(6)]
    return [*good, owner("evil", 5, 50, noise=30.0, weight=1000.0)]


def dense(item, path):
    b, a = item.after[path]
    return 2.0 * b.double() @ a.double()


def found(state, path):
    b, a = state.aggregate[path]
    return b.double() @ a.double()


def test_the_cores_are_the_products_in_the_shared_bases(crowd):
    for site in SITES:
        terms = [(*item.after[site.path], 2.0) for item in crowd]
        q_b, q_a, cores = shared_basis(terms)
        for item, core in zip(crowd, cores, strict=True):
            exact = dense(item, site.path)
            assert float((q_b @ core @ q_a.T - exact).norm() / exact.norm()) < 1e-12
        assert torch.allclose(q_b.T @ q_b, torch.eye(q_b.shape[1]).double(), atol=1e-12)


def test_the_mean_gives_way_to_one_hostile_owner_and_the_others_do_not(crowd):
    honest = [item for item in crowd if item.client != "evil"]
    path = SITES[0].path
    middle = sum(dense(item, path) for item in honest) / len(honest)

    def distance(rule):
        state, _ = advance(fresh("legal", "expert", SITES), crowd, 512, rule)
        return float((found(state, path) - middle).norm() / middle.norm())

    assert distance(MEAN) > 10
    assert distance(Krum(0.2)) < 0.7
    assert distance(TrimmedMean(0.2)) < 0.7


def test_krum_takes_the_owner_that_krum_on_the_products_takes(crowd):
    rows = [np.concatenate([dense(i, s.path).numpy().ravel() for s in SITES]) for i in crowd]
    apart = np.array([[np.sum((x - y) ** 2) for y in rows] for x in rows])
    near = len(rows) - int(0.2 * len(rows)) - 2
    scores = [np.sort(row)[1 : near + 1].sum() for row in apart]
    best = crowd[int(np.argmin(scores))]
    state, error = advance(fresh("legal", "expert", SITES), crowd, 512, Krum(0.2))
    for site in SITES:
        exact = dense(best, site.path)
        assert float((found(state, site.path) - exact).norm() / exact.norm()) < 1e-6
    assert error < 3e-7


def test_the_trimmed_mean_of_owners_that_agree_is_their_mean():
    same = owner("x", 3, 1).after
    items = [change(f"c{k}", same) for k in range(5)]
    state, _ = advance(fresh("legal", "expert", SITES), items, 512, TrimmedMean(0.2))
    for site in SITES:
        exact = dense(items[0], site.path)
        assert float((found(state, site.path) - exact).norm() / exact.norm()) < 1e-6


def test_the_trimmed_mean_without_anything_to_trim_is_the_plain_mean(crowd):
    items = crowd[:4]
    state, _ = advance(fresh("legal", "expert", SITES), items, 512, TrimmedMean(0.2))
    for site in SITES:
        exact = sum(dense(item, site.path) for item in items) / 4
        assert float((found(state, site.path) - exact).norm() / exact.norm()) < 1e-6


WIDE = TargetModule("model.layers.0.mlp.up_proj", 96, 120)


def trained(name, rank, common):
    """An owner whose A was drawn for its name alone, and whose B then learnt what all learn."""
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    a = torch.randn(rank, WIDE.in_features, generator=g) * WIDE.in_features**-0.5
    own = common + 0.02 * torch.randn(common.shape, generator=g)
    return {WIDE.path: (own @ a.T, a)}


@pytest.fixture
def own_starts():
    """Six owners of mixed ranks, each from an A of its own."""
    u, v = torch.randn(WIDE.out_features, 12), torch.randn(12, WIDE.in_features)
    common = u @ (2.0 ** -torch.arange(12.0)).diag() @ v / WIDE.out_features
    ranks = {"ana": 2, "bo": 4, "cy": 3, "di": 4, "ed": 2, "fay": 3}
    return {name: trained(name, rank, common) for name, rank in ranks.items()}


def aggregated(named, rule):
    items = [change(name, after) for name, after in named]
    state, _ = advance(fresh("legal", "expert", (WIDE,)), items, 512, rule)
    return found(state, WIDE.path)


@pytest.mark.parametrize("rule", [Krum(0.2), TrimmedMean(0.2), TrimmedMean(0.4)], ids=str)
@pytest.mark.parametrize("evil", [1.0, -50.0])
def test_what_the_owners_are_called_does_not_matter(own_starts, rule, evil):
    b, a = own_starts["ed"][WIDE.path]
    own_starts["ed"] = {WIDE.path: (evil * b, a)}
    wanted = aggregated(own_starts.items(), rule)
    for seed in range(4):
        names = random.Random(seed).sample(sorted(own_starts), len(own_starts))
        other = aggregated(zip(names, own_starts.values(), strict=True), rule)
        assert float((other - wanted).norm() / wanted.norm()) < 1e-6


def test_honest_owners_are_not_trimmed_away(own_starts):
    """No farther from their mean than the paper's trimmed mean, of all weights one by one."""
    every = [2.0 * b.double() @ a.double() for b, a in (f[WIDE.path] for f in own_starts.values())]
    middle = torch.stack(every).mean(0)
    papers = torch.stack(every).sort(dim=0).values[1:-1].mean(0)
    ours = aggregated(own_starts.items(), TrimmedMean(0.2))
    assert float((ours - middle).norm()) < 1.2 * float((papers - middle).norm())


@pytest.mark.parametrize("rule", ["krum", "trimmed_mean"])
def test_a_rule_that_cuts_nobody_off_is_told(rule):
    stage = ExpertStage(aggregation=rule)
    assert unguarded(stage, {"legal": 5, "medical": 12}) == []
    (told,) = unguarded(stage, {"legal": 5, "medical": 4})
    assert told.startswith(f"medical: {rule} withstands no hostile owner: 4 ")
    assert unguarded(ExpertStage(), {"medical": 1}) == []
    assert unguarded(ExpertStage(aggregation=rule, malicious_fraction=0.0), {"medical": 1}) == []


def test_a_stage_names_its_rule():
    assert rule_of(ExpertStage()) == MEAN
    assert rule_of(ExpertStage(aggregation="krum", malicious_fraction=0.3)) == Krum(0.3)
    assert rule_of(ExpertStage(aggregation="trimmed_mean")) == TrimmedMean(0.2)


def test_one_owner_alone_is_its_own_aggregate(crowd):
    for rule in (Krum(0.2), TrimmedMean(0.2)):
        state, _ = advance(fresh("legal", "expert", SITES), crowd[:1], 512, rule)
        exact = dense(crowd[0], SITES[0].path)
        assert float((found(state, SITES[0].path) - exact).norm() / exact.norm()) < 1e-6


def test_a_round_whose_rule_cuts_nobody_off_says_so(fake_grid, clients, shapes, new_log):
    stage = ExpertStage(1, 2, learning_rate=0.1, aggregation="trimmed_mean", malicious_fraction=0.4)
    log = new_log()
    strategy = ExpertStrategy(stage, shapes, 7, log)
    strategy.start(strategy.patient(fake_grid(clients())), ArrayRecord(), num_rounds=1, timeout=0.2)
    ((_, metrics, _),) = log
    assert [text.split(":")[0] for text in metrics["warnings"]] == ["legal", "medical"]


@pytest.mark.parametrize(
    ("weights", "most", "wanted"),
    [
        ([300, 100], 1.0, [0.75, 0.25]),
        ([2**50, 100, 300], 0.5, [0.5, 0.125, 0.375]),
        ([2**50, 100, 300], 0.4, [0.4, 0.2, 0.4]),
        ([2**50, 100], 0.25, [0.5, 0.5]),
        ([2**50, 2**50, 1, 1], 0.3, [0.3, 0.3, 0.2, 0.2]),
        ([7], 0.5, [1.0]),
        ([7, 0], 0.5, [1.0, 0.0]),
        ([1, 1, 1], 0.0, [1 / 3] * 3),
    ],
)
def test_no_owner_has_more_than_its_share(weights, most, wanted):
    assert shares(weights, most) == pytest.approx(wanted)


def test_a_share_is_of_the_mean_of_an_experts_owners():
    assert rule_of(ExpertStage(max_client_weight=0.4)).max_client_weight == 0.4
    with pytest.raises(ValueError, match=r"max_client_weight 0\.4 is for the mean"):
        ExpertStage(aggregation="krum", max_client_weight=0.4)
    with pytest.raises(ValueError, match="max_client_weight"):
        read_stage({"kind": "routing", "max_client_weight": 0.4})
    with pytest.raises(ValueError, match="max_client_weight must be from 0 to 1"):
        ExpertStage(max_client_weight=1.5)
