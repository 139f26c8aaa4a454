"""Measures how the variance of ReMix's gradient depends on the number of selections M."""

import torch
from torch import Tensor

from fedmore.experts.router_training.gradient import Training
from fedmore.experts.router_training.reinforce import LossTable, Reinforce
from fedmore.sims.studies.routing.material import Material
from fedmore.sims.studies.routing.trial import fresh, mixed
from fedmore.sims.studies.routing.variants import AT, Size, Variant

SAMPLES = (2, 4, 8, 16)
REPEATS = 200


def variance(material: Material, size: Size, seed: int) -> dict[str, float]:
    """Total variance of the estimate at a fresh router, k = 2, one batch: `{M: variance}`.

    The batch is always the same; only the selections differ.
    """
    variant = Variant("ReMix", "remix", 2, samples=2, trained_at=AT)
    mixture = mixed(material, fresh(material, variant))
    table = LossTable(mixture, material.windows)  # losses are the same for every M
    found = {}
    for samples in SAMPLES:
        training = Training(batch_size=size.batch, num_selections=samples, seed=seed)
        method = Reinforce(mixture, material.windows, training, table)
        draws = torch.stack([_gradient(method, size.batch) for _ in range(REPEATS)])
        found[str(samples)] = float(draws.var(0).sum())
    return found


def _gradient(method: Reinforce, batch: int) -> Tensor:
    method.router.zero_grad()
    method.step(0, list(range(batch)))
    flat = [p.grad.flatten() for p in method.router.parameters() if p.grad is not None]
    return torch.cat(flat).double()
