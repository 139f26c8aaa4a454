"""What depends on an owner's rank: the scale of its product, and its learning rate."""

import pytest
from assertions import product
from flwr.app import ArrayRecord

from fedmore.experts.spec import scale_of_rank
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import read_task

FEW = {"steps": 2, "learning_rate": 0.1, "codec": "fp32"}


@pytest.fixture
def start(shapes, new_log):
    def run(grid, stage, rounds=2):
        strategy = ExpertStrategy(stage, shapes, 7, new_log())
        strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=rounds, timeout=0.2)
        return strategy

    return run


@pytest.mark.parametrize(("rank", "scale"), [(2, 4.0), (8, 2.0), (32, 1.0), (128, 0.5)])
def test_a_scale_goes_with_one_over_the_root_of_the_rank(rank, scale):
    """rsLoRA (arXiv 2312.03732), 2 at rank 8 as with a constant scale."""
    assert scale_of_rank("rslora", rank) == pytest.approx(scale)
    assert scale_of_rank("constant", rank) == 2.0


@pytest.mark.parametrize("scaling", ["constant", "rslora"])
def test_every_owner_counts_by_the_scale_of_its_rank(fake_grid, clients, start, scaling):
    everybody = clients()
    strategy = start(fake_grid(everybody), ExpertStage(2, rank_scaling=scaling, **FEW))
    b, a = everybody[:2]
    scales = {c.name: 2.0 if scaling == "constant" else 2 * (8 / c.rank) ** 0.5 for c in (a, b)}
    for path in strategy.states["legal"].aggregate:
        exact = 0.75 * scales["b"] * product(b.component, path)
        exact += 0.25 * scales["a"] * product(a.component, path)
        off = product(strategy.states["legal"].aggregate, path) - exact
        assert float(off.norm()) < 1e-6 * float(exact.norm())


def test_a_start_from_the_aggregate_is_in_the_scale_of_the_rank(fake_grid, clients, start):
    """The full rank of both owners' changes: what each begins with is the aggregate's own part."""
    stage = ExpertStage(2, rank_scaling="rslora", round_start="aggregate", **FEW)
    grid = fake_grid(clients())
    first = start(fake_grid(clients()), stage, 1).states["legal"].aggregate
    strategy = start(grid, stage, 2)
    task = read_task(grid.tasks()["b"][-1])
    scale = task.spec("b").scale
    assert scale == pytest.approx(2 * (8 / 4) ** 0.5)
    b = next(c for c in grid.clients.values() if c.name == "b")
    for path, (b_OD, a_DI) in first.items():
        s = (b_OD.double() @ a_DI.double()).svd().S
        begun = scale * product(b.begun[-1], path)
        assert float((begun.svd().S[:4] - s[:4]).norm()) < 0.01 * float(s[:4].norm())
    assert strategy.states["legal"].components["b"].updates == 2


@pytest.mark.parametrize(
    ("pairs", "rates"),
    [
        ((), {"a": 0.1, "b": 0.1}),
        (((4, 0.02),), {"a": 0.1, "b": 0.02}),
        (((4, 0.02), (2, 0.05)), {"a": 0.05, "b": 0.02}),
        (((3, 0.05), (16, 0.01)), {"a": 0.1, "b": 0.05}),
    ],
)
def test_a_task_has_the_learning_rate_of_its_rank(fake_grid, clients, start, pairs, rates):
    grid = fake_grid(clients())
    start(grid, ExpertStage(2, rank_learning_rates=pairs, **FEW), 1)
    asked = {name: read_task(sent[0]).learning_rate for name, sent in grid.tasks().items()}
    assert {name: asked[name] for name in "ab"} == rates


@pytest.mark.parametrize("pair", [(0, 0.1), (4, 0.0), (4, -1.0)])
def test_a_rate_of_no_rank_and_no_rate_are_refused(pair):
    with pytest.raises(ValueError, match="must be above 0"):
        ExpertStage(rank_learning_rates=(pair,))


@pytest.mark.parametrize(
    ("warm_up", "warms"), [("once", [True, False, False]), ("every_round", [True] * 3)]
)
def test_the_rate_warms_up_in_the_first_round_or_in_every_one(
    fake_grid, clients, start, warm_up, warms
):
    grid = fake_grid(clients())
    start(grid, ExpertStage(3, warm_up=warm_up, **FEW), 3)
    for sent in grid.tasks().values():
        assert [read_task(content).warms_up for content in sent] == warms
