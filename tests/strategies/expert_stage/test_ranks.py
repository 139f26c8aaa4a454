"""What depends on an owner's rank: the scale of its product, and its learning rate."""

import pytest
from assertions import product
from expert_rounds import train
from flwr.app import ArrayRecord
from stages import OWN_FACTORS

from fedmore.experts.spec import scale_at, scale_of_rank
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import without
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
    strategy = start(
        fake_grid(everybody), ExpertStage(2, rank_scaling=scaling, **FEW, **OWN_FACTORS)
    )
    b, a = everybody[:2]
    scales = {c.name: 2.0 if scaling == "constant" else 2 * (8 / c.rank) ** 0.5 for c in (a, b)}
    for path in strategy.states["legal"].aggregate:
        exact = 0.75 * scales["b"] * product(b.component, path)
        exact += 0.25 * scales["a"] * product(a.component, path)
        off = product(strategy.states["legal"].aggregate, path) - exact
        assert float(off.norm()) < 1e-6 * float(exact.norm())


PATTERNS = {"a": ("gate=2,up=2,down=8", 8), "b": ("0:4,1-2:2", 4)}


@pytest.fixture
def of_patterns(fake_client):
    def make():
        sizes = {"a": 100, "b": 300}
        return [
            fake_client(name, rank=rank, ranks=ranks, size=sizes[name])
            for name, (ranks, rank) in PATTERNS.items()
        ]

    return make


def dense(state, path, names):
    """The sum of the owners' contributions to a matrix, dense in float64."""
    found = 0.0
    for name in names:
        part = state.components[name]
        scale = part.weight * scale_at(part.scale, path)
        found = found + scale * product(part.factors, path)
    return found


@pytest.mark.parametrize("scaling", ["constant", "rslora"])
def test_owners_of_patterns_are_summed_each_matrix_at_its_own_scale(
    fake_grid, of_patterns, start, scaling
):
    everybody = of_patterns()
    grid = fake_grid(everybody)
    strategy = start(grid, ExpertStage(2, rank_scaling=scaling, **FEW, **OWN_FACTORS))
    state = strategy.states["legal"]
    shares = {"a": 0.25, "b": 0.75}
    for path, (_, a_RI) in state.aggregate.items():
        exact = 0.0
        for client in everybody:
            rank = client.component[path][1].shape[0]
            scale = 2.0 if scaling == "constant" else 2 * (8 / rank) ** 0.5
            exact = exact + shares[client.name] * scale * product(client.component, path)
        off = product(state.aggregate, path) - exact
        assert float(off.norm()) < 1e-6 * float(exact.norm())
        layer = int(path.split(".")[2])
        assert a_RI.shape[0] == (8 if "down" in path else 2) + (4 if layer < 1 else 2)
    assert read_task(grid.tasks()["a"][0]).ranks == PATTERNS["a"][0]
    left, _ = without(state, {"a"}, 512)
    for path in left.aggregate:
        exact = dense(state, path, ["b"])
        off = product(left.aggregate, path) - exact
        assert float(off.norm()) < 1e-6 * float(exact.norm())


@pytest.mark.parametrize("round_start", ["own", "aggregate"])
def test_a_federation_of_patterns_goes_on_from_its_snapshot(
    fake_grid, of_patterns, shapes, new_log, round_start
):
    """Killed between two rounds and started again, it ends with the same numbers."""
    stage = ExpertStage(3, rank_scaling="rslora", round_start=round_start, **FEW)
    whole, _ = train(shapes, new_log(), fake_grid(of_patterns()), stage, 3)
    grid = fake_grid(of_patterns())
    first, _ = train(shapes, new_log(), grid, stage, 1)
    kept = restore(dump(first.states), stage)
    again, _ = train(shapes, new_log(), grid, stage, 2, kept, 1)
    assert dump(again.states) == dump(whole.states)
    scale = again.states["legal"].components["a"].scale
    assert {round(each, 6) for each in scale.values()} == {2.0, 4.0}


def test_a_start_from_the_aggregate_has_the_ranks_of_the_pattern(fake_grid, of_patterns, start):
    stage = ExpertStage(2, rank_scaling="rslora", round_start="aggregate", **FEW)
    first = start(fake_grid(of_patterns()), stage, 1).states["legal"].aggregate
    grid = fake_grid(of_patterns())
    start(grid, stage, 2)
    owner = next(c for c in grid.clients.values() if c.name == "a")
    for path, (b_OD, a_DI) in first.items():
        rank = 8 if "down" in path else 2
        s = (b_OD.double() @ a_DI.double()).svd().S[:rank]
        begun = 2 * (8 / rank) ** 0.5 * product(owner.begun[-1], path)
        assert owner.begun[-1][path][1].shape[0] == rank
        assert float((begun.svd().S[:rank] - s).norm()) < 0.01 * float(s.norm())


def test_an_update_of_another_pattern_is_refused(fake_grid, of_patterns, start):
    """Played by a member that sends what another pattern of the same largest rank gives."""
    liar, honest = of_patterns()
    train_as = type(liar).train

    def another(content):
        liar.ranks, kept = "8", liar.ranks
        try:
            return train_as(liar, content)
        finally:
            liar.ranks = kept

    liar.train = another
    strategy = start(
        fake_grid([liar, honest]), ExpertStage(1, quorum_fraction=0.5, **FEW, **OWN_FACTORS), 1
    )
    assert strategy.states["legal"].owners == ["b"]


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


def test_a_pair_of_zero_is_the_rate_of_full_size_changes_alone():
    stage = ExpertStage(learning_rate=0.5, rank_learning_rates=((0, 0.1), (8, 0.2)))
    assert [stage.rate_of(rank) for rank in (0, 4, 8, 64)] == [0.1, 0.5, 0.2, 0.2]
    assert ExpertStage(learning_rate=0.5, rank_learning_rates=((8, 0.2),)).rate_of(0) == 0.5


@pytest.mark.parametrize("pair", [(-1, 0.1), (4, 0.0), (4, -1.0)])
def test_a_rate_of_no_rank_and_no_rate_are_refused(pair):
    with pytest.raises(ValueError, match="must be"):
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
