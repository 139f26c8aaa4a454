"""Every rule on cores, against Flower's own class and numpy on the dense products themselves."""

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum, MultiKrum
from scipy.stats import trim_mean

from fedmore.experts.spec import TargetModule
from fedmore.protos.wire.flower_compat import identify
from fedmore.strategies.expert_stage.aggregation import ask, rule_of
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.cores import cores_of
from fedmore.strategies.expert_stage.state import fresh
from fedmore.strategies.expert_stage.step import advance
from fedmore.strategies.stages.expert import ExpertStage

SITES = (
    TargetModule("model.layers.0.mlp.up_proj", 24, 16),
    TargetModule("model.layers.0.mlp.down_proj", 16, 24),
)
COUNT, HOSTILE = 7, 0.3  # two of seven


@pytest.fixture(autouse=True)
def identity():
    identify()


@pytest.fixture(params=[0, 1, 2])
def crowd(request):
    """Owners of mixed ranks who move from somewhere to near one another, two of them far off."""
    g = torch.Generator().manual_seed(request.param)

    def factors(rank, size):
        return {
            s.path: (
                torch.randn(s.out_features, rank, generator=g) * size,
                torch.randn(rank, s.in_features, generator=g),
            )
            for s in SITES
        }

    centre, found = factors(6, 0.3), []
    for k in range(COUNT):
        rank, far = 6 + k % 3, 20.0 if k in (2, 5) else 1.0
        before, after = factors(rank, 0.1), {}
        for path, (b, a) in before.items():
            b_1, a_1 = b.clone(), a.clone()
            b_1[:, :6], a_1[:6] = far * centre[path][0], centre[path][1]
            noise = torch.randn(b.shape, generator=g) * 0.05
            after[path] = (b_1 + noise, a_1)
        found.append(Change(f"o{k}", before, after, size=float(1 + k), scale=2.0))
    return found


def dense(change):
    return {
        path: 2.0 * (b.double() @ a.double() - b_0.double() @ a_0.double())
        for path, (b, a) in change.after.items()
        for b_0, a_0 in [change.before[path]]
    }


def step(crowd, **stage):
    """What the step of a round makes of an expert that changes nothing yet."""
    state, _ = advance(fresh("legal", "expert", SITES), crowd, 512, rule_of(ExpertStage(**stage)))
    return {p: b.double() @ a.double() for p, (b, a) in state.aggregate.items()}


def close(found, wanted, off=1e-6):
    for path, exact in wanted.items():
        assert float((found[path] - exact).norm()) < off * float(exact.norm())


def rows(crowd):
    return [np.concatenate([m.numpy().ravel() for m in dense(each).values()]) for each in crowd]


def krum_scores(crowd):
    """Sums of squared distances to the nearest ``n - f - 2`` others (arXiv 1703.02757)."""
    vectors, near = rows(crowd), COUNT - int(HOSTILE * COUNT) - 2
    apart = [[np.sum((x - y) ** 2) for y in vectors] for x in vectors]
    return [
        sum(sorted(d for j, d in enumerate(row) if j != i)[:near]) for i, row in enumerate(apart)
    ]


def mean_of(crowd, chosen):
    each = [dense(crowd[i]) for i in chosen]
    return {path: sum(one[path] for one in each) / len(each) for path in each[0]}


@pytest.mark.parametrize(("name", "count"), [("krum", 1), ("multi_krum", 5)])
def test_krum_takes_whom_it_takes_on_the_products(crowd, name, count):
    best = np.argsort(krum_scores(crowd))[:count]
    assert not {2, 5} & set(best)
    close(step(crowd, aggregation=name, malicious_fraction=HOSTILE), mean_of(crowd, best))


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("krum", Krum(num_malicious_nodes=2)),
        ("multi_krum", MultiKrum(num_malicious_nodes=2, num_nodes_to_select=5)),
    ],
)
def test_krum_is_flowers_on_the_products(crowd, name, strategy):
    products = [{path: m.numpy() for path, m in dense(each).items()} for each in crowd]
    wanted = {path: torch.from_numpy(m) for path, m in ask(strategy, products).items()}
    close(step(crowd, aggregation=name, malicious_fraction=HOSTILE), wanted)


@pytest.mark.parametrize(
    ("name", "strategy", "by_numpy"),
    [
        ("median", FedMedian(), lambda cores: np.median(cores, axis=0)),
        ("trimmed_mean", FedTrimmedAvg(beta=HOSTILE), lambda cores: trim_mean(cores, HOSTILE)),
    ],
)
def test_coordinate_by_coordinate_in_the_shared_basis(crowd, name, strategy, by_numpy):
    bases, cores = cores_of(crowd)
    flowers = ask(strategy, [{p: c.numpy() for p, c in each.items()} for each in cores])
    wanted = {}
    for path, (q_b, q_a) in bases.items():
        merged = by_numpy(np.stack([each[path].numpy() for each in cores]))
        assert np.allclose(flowers[path], merged, atol=1e-12)
        wanted[path] = q_b @ torch.from_numpy(merged) @ q_a.T
    close(step(crowd, aggregation=name, malicious_fraction=HOSTILE), wanted)


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_two_far_off_move_the_step_less_than_they_move_the_mean(crowd, name):
    honest = mean_of(crowd, [i for i in range(COUNT) if i not in (2, 5)])

    def off(found):
        return sum(float((found[p] - exact).norm()) ** 2 for p, exact in honest.items()) ** 0.5

    robust = step(crowd, aggregation=name, malicious_fraction=HOSTILE)
    assert off(robust) < 0.2 * off(step(crowd, aggregation="mean"))


@pytest.mark.parametrize("norm", [0.0, 3.0])
def test_norms_are_clipped_as_in_numpy(crowd, norm):
    norms = [float(np.linalg.norm(row)) for row in rows(crowd)]
    most, total = norm or float(np.median(norms)), sum(each.size for each in crowd)
    wanted = {
        path: sum(
            each.size / total * min(1.0, most / size) * dense(each)[path]
            for each, size in zip(crowd, norms, strict=True)
        )
        for path in (site.path for site in SITES)
    }
    close(step(crowd, aggregation="clipped", clip_norm=norm), wanted)
