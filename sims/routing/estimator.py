"""How much the ReMix estimate of the gradient varies with the number of selections M."""

from typing import Any

import torch
from torch import Tensor

from fedmore.experts.mixture import assemble
from fedmore.experts.routing.reinforce import Reinforce
from fedmore.experts.routing.training import Training
from fedmore.sims.routing.material import Material
from fedmore.sims.routing.trial import fresh
from fedmore.sims.routing.variants import AT, Size, Variant

SAMPLES = (2, 4, 8, 16)
REPEATS = 200


def variance(material: Material, size: Size, seed: int) -> dict[str, float]:
    """Total variance of the estimate at a fresh router, k = 2, one batch: `{M: variance}`.

    The batch is the same every time; only the selections differ.
    """
    variant = Variant("ReMix", "remix", 2, samples=2, trained_at=AT)
    mixture = assemble(material.base.model, material.experts, fresh(material, variant))
    table: Any = None
    found = {}
    for samples in SAMPLES:
        training = Training(batch_size=size.batch, samples=samples, seed=seed)
        method = Reinforce(mixture, material.windows, training)
        method.table = table = table or method.table  # losses are the same for every M
        draws = torch.stack([_gradient(method, size.batch) for _ in range(REPEATS)])
        found[str(samples)] = float(draws.var(0).sum())
    return found


def _gradient(method: Reinforce, batch: int) -> Tensor:
    method.router.zero_grad()
    method.step(0, list(range(batch)))
    flat = [p.grad.flatten() for p in method.router.parameters() if p.grad is not None]
    return torch.cat(flat).double()
