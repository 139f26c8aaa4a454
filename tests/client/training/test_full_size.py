"""The training of full-size matrices: what moves, and how its memory is spared."""

import pytest
import torch

from fedmore.client.owner.memory_saving import MemorySaving
from fedmore.client.training.checkpoint import Checkpoints
from fedmore.client.training.expert import Schedule, train
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.experts.errors import ConfigError
from fedmore.experts.ranks import FULL
from fedmore.experts.spec import ExpertSpec
from fedmore.experts.text.windows import windows

TEXTS = [f"stir the soup {i} times, wait {i} minutes, then taste. " * 6 for i in (1, 2, 3)]
STEPS = 5
SAVINGS = {
    "none": MemorySaving(),
    "8 bits": MemorySaving("adamw8bit"),
    "checkpointing": MemorySaving("adamw", True),
    "both": MemorySaving("adamw8bit", True),
}


class KilledError(Exception):
    """Stands in for a kill: nothing of the training runs on."""


def fit(tiny, saving, rank=FULL, file=None, die_after=None):
    base = load_base(str(tiny), "float32")
    spec = ExpertSpec("kitchen/a", "expert", "kitchen", rank, ranks="" if rank else "full")
    sites = spec.sites(shapes_of(base.model))
    start = low_rank.initial(spec, sites, 0)

    def report(step, *_):
        if step == die_after:
            raise KilledError

    drawn = windows(TEXTS, base.text, 16, STEPS * 2, 0)
    kept = file and Checkpoints(file, interval_s=0, share=float("inf"))
    schedule = Schedule(STEPS, 2, 1e-2, 1, 1)
    return train(
        base.model, sites, start, None, spec.scale, drawn, schedule, report, kept,
        base.fingerprint, saving=saving,
    )  # fmt: skip


def same(left, right):
    return all(torch.equal(x, y) for p in left for x, y in zip(left[p], right[p], strict=True))


def test_every_matrix_is_trained_from_zero_beside_the_frozen_base(tiny):
    before = load_base(str(tiny), "float32").model.state_dict()
    weights = {name: tensor.clone() for name, tensor in before.items()}
    found = fit(tiny, SAVINGS["none"])
    for change in found.factors.values():
        assert len(change) == 1
        assert change[0].abs().max() > 0
    after = load_base(str(tiny), "float32").model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("rank", [FULL, 4])
def test_checkpointing_of_activations_changes_no_bit(tiny, rank):
    assert same(
        fit(tiny, SAVINGS["none"], rank).factors, fit(tiny, SAVINGS["checkpointing"], rank).factors
    )


@pytest.mark.parametrize("saving", ["8 bits", "both"])
def test_moments_of_eight_bits_train_about_the_same(tiny, saving):
    whole, spared = fit(tiny, SAVINGS["none"]), fit(tiny, SAVINGS[saving])
    assert not same(whole.factors, spared.factors)
    assert spared.loss == pytest.approx(whole.loss, rel=0.05)


@pytest.mark.parametrize("saving", SAVINGS)
@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_training_ends_with_the_same_bits(tiny, tmp_path, saving, after):
    """The moments are in the checkpoint in their own dtypes, with their scales."""
    file = tmp_path / "kitchen.checkpoint.safetensors"
    with pytest.raises(KilledError):
        fit(tiny, SAVINGS[saving], file=file, die_after=after)
    resumed = fit(tiny, SAVINGS[saving], file=file)
    assert same(resumed.factors, fit(tiny, SAVINGS[saving]).factors)


def test_a_checkpoint_of_another_optimizer_is_not_used(tiny, tmp_path):
    file = tmp_path / "kitchen.checkpoint.safetensors"
    with pytest.raises(KilledError):
        fit(tiny, SAVINGS["none"], file=file, die_after=3)
    found = fit(tiny, SAVINGS["8 bits"], file=file)
    assert same(found.factors, fit(tiny, SAVINGS["8 bits"]).factors)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="adamw and adamw8bit"):
        MemorySaving("sgd")
