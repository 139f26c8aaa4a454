"""A router that trusts an expert the more, the more training has changed it."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedmore.experts import Memory, Router, RouterSpec


class ByChange(Router):
    """All tokens alike: an expert's weight is its part of all changes, by Frobenius norm.

    Half of the weight stays with the public expert, which is the base itself.
    """

    expert_axes: ClassVar[dict[str, int]] = {"norms_E": 0}
    norms_E: Tensor

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__(spec)
        self.register_buffer("norms_E", torch.ones(spec.experts))

    def prepare(
        self, experts: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]], blocks: Sequence[int]
    ) -> None:
        """Measure every expert's change of all matrices together."""
        for index, factors in enumerate(experts.values()):
            squares = [(b.double() @ a.double()).square().sum() for b, a in factors.values()]
            self.norms_E[index] = torch.stack(squares).sum().sqrt()

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Weights [B, T, A]: the public expert first, then the others in their order."""
        experts_E = 0.5 * self.norms_E / self.norms_E.sum().clamp_min(1e-30)
        arms_A = torch.cat([experts_E.new_full((1,), 0.5), experts_E])
        return arms_A.to(x_BTD.dtype).expand(*x_BTD.shape[:2], -1)
