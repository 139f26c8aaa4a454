"""What a training moves: nothing that the client made is lost, whatever the codec rounds away."""

import pytest
import torch
from stages import OWN_FACTORS

from fedmore.client.training.component import Component, move
from fedmore.experts.spec import TargetModule
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.base import work_of
from fedmore.strategies.tasks.train import TrainTask

SITES = (
    TargetModule("model.layers.0.mlp.up_proj", 40, 300),
    TargetModule("model.layers.0.mlp.down_proj", 300, 40),
)
RANK = 3


def drawn(seed, size):
    g = torch.Generator().manual_seed(seed)
    return {
        site.path: (
            torch.randn(site.out_features, RANK, generator=g) * size,
            torch.randn(RANK, site.in_features, generator=g) * size,
        )
        for site in SITES
    }


def task(**stage):
    made = ExpertStage(**(OWN_FACTORS | stage))
    return TrainTask(
        expert="legal", kind="expert", target="legal", rank=RANK, first_layers=1, last_layers=1,
        weight_bits=made.weight_bits, **work_of(made, 2, 1, 0),
    )  # fmt: skip


def flat(factors):
    return torch.cat([tensor.flatten().double() for pair in factors.values() for tensor in pair])


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "nf4", "sign1"])
def test_what_was_trained_and_what_was_owed_is_held_or_owed(codec):
    """The golden rule where it is used: sent + residual == change + old residual."""
    before, trained = Component(drawn(0, 1.0), drawn(1, 0.1)), drawn(2, 1.0)
    after = move(task(codec=codec), trained, before, SITES).component
    torch.testing.assert_close(flat(after.start), flat(trained), rtol=0, atol=1e-5)
    wanted = flat(trained) - flat(before.start) + flat(before.beside)
    sent = flat(after.held) - flat(before.held)
    torch.testing.assert_close(sent + flat(after.beside), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_weights_of_few_bits_are_sent_whole_and_the_numbers_behind_them_kept(bits):
    before, trained = Component(drawn(0, 1.0), drawn(1, 0.1)), drawn(2, 1.0)
    after = move(task(weight_bits=bits), trained, before, SITES).component
    torch.testing.assert_close(flat(after.start), flat(trained), rtol=0, atol=1e-5)
    for pair in after.held.values():
        assert all(len(tensor.unique()) <= 2**bits for tensor in pair)
