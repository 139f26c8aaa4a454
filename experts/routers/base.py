"""The one interface of every router.

A router is called with the hidden states that enter a decision's place (the input embeddings for
decisions that all layers share, else a block's input) and answers with the weights of all arms: the
public expert first, then the experts in their order. It is causal: the weights of a token depend on
it and the tokens before it. What it must know of those is in the `Memory`, so that it works with a
key-value cache, one token at a time.

Shape suffixes: B sequences, T tokens, D width, A arms.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmore.experts.factors import Factors
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.spec import RouterSpec

HAIR = 1e-3
"""What a new expert's bias lacks to the public one's: more than rounding would tell apart."""


class Router(nn.Module):
    """What a mixture needs of a router."""

    arm_axes: ClassVar[dict[str, int]] = {}
    """By name, the axis of the arms in every state tensor with an entry per arm."""

    expert_axes: ClassVar[dict[str, int]] = {}
    """The same for tensors with an entry per expert, without the public one."""

    two_pass: ClassVar[bool] = False
    """Whether `plan` is called with the base's last hidden states before the forward pass."""

    learned: ClassVar[bool] = False
    """Whether its parameters are trained; if not, it is ready once it is made and prepared."""

    per_layer: ClassVar[bool] = False
    """Whether it decides in every routed block, whatever the configuration says."""

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def shared(self) -> bool:
        """One decision for all layers, from the input embeddings."""
        return self.spec.layers == 1 and not self.two_pass

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Weights [B, T, A] of decision `slot`, each at least 0."""
        raise NotImplementedError

    def prepare(self, experts: Mapping[str, Factors], blocks: Sequence[int]) -> None:
        """Set what follows from the experts' changes alone, before any training.

        `experts` are in the order of the arms, and `blocks` are the layers that they change.
        """

    def plan(self, hidden_BTD: Tensor, memory: Memory) -> None:
        """Look at the base's last hidden states, ahead of the forward pass that is routed."""

    @torch.no_grad()
    def keeping(self, experts: Sequence[int]) -> "Router":
        """The router of some of its experts, in that order; what it learned of them is kept."""
        other = type(self)(self.spec.of(len(experts)))
        other.load_state_dict(self._selected(experts))
        return other.train(self.training)

    @torch.no_grad()
    def with_new(self, count: int = 1) -> "Router":
        """The router of `count` experts more, after the others; a new one is as yet never better.

        Its numbers are those of the public expert where there are such, else zeros; its bias is a
        `HAIR` less, so that no rounding puts it before the public one.
        """
        other = type(self)(self.spec.of(self.spec.experts + count))
        old, state = self.state_dict(), other.state_dict()
        for name, tensor in old.items():
            axis = self.arm_axes.get(name, self.expert_axes.get(name))
            if axis is None:
                state[name] = tensor
                continue
            first = tensor.narrow(axis, 0, 1)
            fresh = first if name in self.arm_axes else torch.zeros_like(first)
            if name == "bias_LA":
                fresh = fresh - HAIR
            state[name] = torch.cat([tensor, *[fresh] * count], axis)
        other.load_state_dict(state)
        return other.train(self.training)

    def _selected(self, experts: Sequence[int]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state_dict()
        chosen = torch.tensor(list(experts), dtype=torch.long)
        arms = torch.cat([torch.zeros(1, dtype=torch.long), chosen + 1])
        for axes, index in ((self.arm_axes, arms), (self.expert_axes, chosen)):
            for name in axes.keys() & state.keys():
                state[name] = state[name].index_select(axes[name], index.to(state[name].device))
        return state


def keep_top(arms_A: Tensor, k: int) -> Tensor:
    """All but the k largest experts set to 0; the public arm has what they had.

    k = 0 keeps all. The public expert costs nothing more, so nothing is renormalised.
    """
    experts = arms_A[..., 1:]
    if not 0 < k < experts.shape[-1]:
        return arms_A
    kept = experts * torch.zeros_like(experts).scatter_(-1, largest(experts, k), 1.0)
    return with_public(kept)


def largest(values_A: Tensor, k: int) -> Tensor:
    """Indices [..., K] of the k largest; of equal ones the first, whatever the batch."""
    return values_A.argsort(dim=-1, descending=True, stable=True)[..., :k]


def with_public(experts_E: Tensor) -> Tensor:
    """The experts' shares, with what they leave in front; rounding leaves nothing below 0."""
    public = (1 - experts_E.sum(-1, keepdim=True)).clamp_min(0)
    return torch.cat([public, experts_E], dim=-1)
