"""Nested ranks: which prefix a step trains, and that a cut training goes on with the same ones."""

from collections import Counter

import pytest
import torch

from fedmore.client.training.checkpoint import Checkpoints
from fedmore.client.training.expert import Schedule, train
from fedmore.client.training.nested_ranks import prefix_of, prefixes
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.experts.spec import ExpertSpec
from fedmore.experts.text.windows import windows
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import read_task, train_content

TEXTS = [
    f"stir the soup {i} times, wait {i} minutes, then taste the broth. " * 4 for i in (1, 2, 3)
]
SPEC = ExpertSpec("kitchen/a", "expert", "kitchen", 4, ranks="gate=1,up=4,down=2")
STEPS, SEED = 5, 3


class KilledError(Exception):
    """Stands in for a kill: nothing of the training runs on."""


@pytest.mark.parametrize(
    ("rank", "expected"),
    [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12)), (16, (1, 2, 4, 8, 16))],
)
def test_prefixes_are_powers_of_two_and_the_whole(rank, expected):
    assert prefixes(rank) == expected
    found = Counter(prefix_of(7, step, rank) for step in range(400 * len(expected)))
    assert set(found) == set(expected)
    assert all(300 < count < 500 for count in found.values())


@pytest.fixture
def fit(tiny):
    base = load_base(str(tiny), "float32")
    sites = SPEC.sites(shapes_of(base.model))

    def run(kept=None, *, die_after=None, nested=True, steps=STEPS, seed=SEED):
        def report(step, *_):
            if step == die_after:
                raise KilledError

        text = windows(TEXTS, base.text, 32, steps * 2, 0)
        schedule = Schedule(steps, 2, 1e-2, 1, 1)
        start = low_rank.initial(SPEC, sites, 0)
        done = train(
            base.model, sites, start, None, SPEC.scales(sites), text, schedule, report, kept,
            base.fingerprint, 0, seed, nested,
        )  # fmt: skip
        return start, done.factors

    return run


def test_a_step_moves_the_first_directions_only(fit):
    """Of a training of one step; a matrix with fewer directions moves whole."""
    seed = next(s for s in range(99) if prefix_of(s, 0, 4) == 2)
    start, after = fit(steps=1, seed=seed)
    for path, (b, _) in after.items():
        moved = [bool((b[:, i] != start[path][0][:, i]).any()) for i in range(b.shape[1])]
        assert moved == [True, True, False, False][: b.shape[1]]


def test_killed_after_any_step_it_ends_with_the_same_bits(fit, tmp_path):
    _, whole = fit()
    for die_after in range(1, STEPS):
        file = tmp_path / str(die_after)
        with pytest.raises(KilledError):
            fit(Checkpoints(file, interval_s=0, share=float("inf")), die_after=die_after)
        assert file.is_file()
        _, done = fit(Checkpoints(file, interval_s=0, share=float("inf")))
        for path, pair in whole.items():
            assert all(torch.equal(x, y) for x, y in zip(pair, done[path], strict=True))


def test_a_checkpoint_of_plain_training_is_not_gone_on_with(fit, tmp_path):
    def kept():
        return Checkpoints(tmp_path / "c", interval_s=0, share=float("inf"))

    with pytest.raises(KilledError):
        fit(kept(), die_after=3, nested=False)
    _, whole = fit()
    _, done = fit(kept())
    assert all(torch.equal(whole[path][0], done[path][0]) for path in whole)


@pytest.mark.parametrize(
    "other", [{"round_start": "aggregate"}, {"round_start": "own", "weight_bits": 1}]
)
def test_directions_that_do_not_keep_their_order_are_refused(other):
    with pytest.raises(ValueError, match="nested_ranks: directions keep their order only"):
        ExpertStage(nested_ranks=True, **other)


def test_plans_and_tasks_without_it_are_what_they_were(train_task_of):
    assert "nested_ranks" not in ExpertStage().table()
    assert ExpertStage(nested_ranks=True, round_start="own").table()["nested_ranks"] is True
    for stage in (ExpertStage(), ExpertStage(nested_ranks=True, round_start="own")):
        task = train_task_of(stage)
        content = train_content(task, (), "fp32", None)
        said = content.config_records["task"]
        assert ("nested_ranks" in said) == stage.nested_ranks
        assert read_task(content) == task


@pytest.fixture
def train_task_of():
    from fedmore.strategies.expert_stage.pending import task_of
    from fedmore.strategies.members import Member

    return lambda stage: task_of(stage, Member("a", "expert", "legal", 4, 9, [], []), 1, 0, 0)
