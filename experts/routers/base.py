"""The interface of every router.

A router gets the hidden states at the place of a decision: the input embeddings if all layers share
the decision, else a block's input. It returns the weights of all arms: the public expert first,
then the experts in their order. It is causal: the weights of a token depend on it and on the tokens
before it. It keeps what it needs of those in the `Memory`, so that it works with a key-value cache,
one token at a time.

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
"""By how much a new expert's bias is below the public one's; more than rounding could hide."""


class Router(nn.Module):
    """Base class of all routers."""

    arm_axes: ClassVar[dict[str, int]] = {}
    """Axis of the arms, by name of every state tensor with an entry per arm."""

    expert_axes: ClassVar[dict[str, int]] = {}
    """Axis of the experts, by name of every state tensor with an entry per expert but public."""

    two_pass: ClassVar[bool] = False
    """Whether `plan` is called with the base's last hidden states before the forward pass."""

    learned: ClassVar[bool] = False
    """Whether its parameters are trained; if not, it is ready after `prepare`."""

    per_layer: ClassVar[bool] = False
    """Whether it decides in every routed block, independent of the configuration."""

    def __init__(self, spec: RouterSpec) -> None:
        super().__init__()
        self.spec = spec

    def buffer_limits(self) -> Mapping[str, float]:
        """By name, the largest absolute number of every buffer that is not always as it was made.

        An owner who trains the router takes no other change of a buffer from a coordinator. A
        learned router with such buffers has to say this of each; parameters are bounded by their
        training.
        """
        return {}

    @property
    def shared(self) -> bool:
        """Whether all layers share one decision, made from the input embeddings."""
        return self.spec.layers == 1 and not self.two_pass

    def forward(self, x_BTD: Tensor, slot: int, memory: Memory) -> Tensor:
        """Return the weights of decision `slot`, float32 [B, T, A], each at least 0."""
        raise NotImplementedError

    def prepare(self, experts: Mapping[str, Factors], blocks: Sequence[int]) -> None:
        """Set the state that follows from the experts' changes alone, before any training.

        `experts` are in the order of the arms, and `blocks` are the layers that they change.
        """

    def plan(self, hidden_BTD: Tensor, memory: Memory) -> None:
        """Read the base's last hidden states before the routed forward pass, if `two_pass`."""

    @torch.no_grad()
    def keeping(self, experts: Sequence[int]) -> "Router":
        """Make the router of some of its experts, in that order, with their learned numbers."""
        other = type(self)(self.spec.of(len(experts)))
        other.load_state_dict(self._selected(experts))
        return other.train(self.training)

    @torch.no_grad()
    def with_new(self, count: int = 1) -> "Router":
        """Make a router with `count` more experts at the end, which are never preferred yet.

        A new expert gets a copy of the public expert's numbers, or zeros in tensors without them.
        Its bias is a `HAIR` lower, so that no rounding puts it before the public expert.
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
    """Set all but the k largest experts to 0 and give their weight to the public arm.

    k = 0 keeps all. Nothing is renormalised, since more weight of the public expert costs nothing.
    """
    experts = arms_A[..., 1:]
    if not 0 < k < experts.shape[-1]:
        return arms_A
    kept = experts * torch.zeros_like(experts).scatter_(-1, largest(experts, k), 1.0)
    return with_public(kept)


def largest(values_A: Tensor, k: int) -> Tensor:
    """Indices of the k largest, [..., K]; among equal ones the first, independent of the batch."""
    return values_A.argsort(dim=-1, descending=True, stable=True)[..., :k]


def with_public(experts_E: Tensor) -> Tensor:
    """Put the rest up to 1 in front of the experts' shares, as the public share; never below 0."""
    public = (1 - experts_E.sum(-1, keepdim=True)).clamp_min(0)
    return torch.cat([public, experts_E], dim=-1)
