"""The hidden activations of the mixture as one differentiable operation.

It computes ``mixed = (1 - sum g_i) h + sum g_i h_i``, and the row ``Ad_i h_i`` of every routed
token. An expert's hidden activations are never stored. The backward pass computes them again from
the base's gate and up activations and the low-rank rows. A *form* does the work: `by_loops` or
`by_triton`.
"""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Stack = TypeVar("Stack")
Found = tuple[Tensor, Tensor, Tensor, Tensor]  # gradients of g, u, the low-rank rows, the weights


@dataclass(frozen=True)
class Stacks(Generic[Stack]):
    """All experts' factors by kind; `into` is Ag above Au, which give both low-rank rows."""

    into: Stack
    gate: Stack  # Bg
    up: Stack  # Bu
    down: Stack  # Ad
    out: Stack  # Bd


class Form(Protocol):
    """The loops or kernels of one device; `hidden` explains the arguments."""

    def forward(
        self, g_TH: Tensor, u_TH: Tensor, low: Tensor, weights: Tensor, route: Any, stacks: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the mixed hidden activations [T, H] and the routed tokens' rows, flat."""

    def backward(
        self, given: tuple[Tensor, ...], arriving: tuple[Tensor, Tensor], route: Any, stacks: Any,
        factors: list[Tensor],
    ) -> tuple[Found, list[Tensor]]:  # fmt: skip
        """Return the gradients of the first four arguments of `forward`, and of `factors`.

        `given` are those arguments; `arriving` are the gradients of the results of `forward`.
        """


def hidden(
    form: Form, g_TH: Tensor, u_TH: Tensor, low: Tensor, weights: Tensor, route: Any, stacks: Any,
    factors: list[Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the mixed hidden activations [T, H] and the routed tokens' rows, float32, flat.

    Args:
        form: the loops or kernels of the device.
        g_TH: the base's gate activations, [T, H].
        u_TH: the base's up activations, [T, H].
        low: low-rank rows of the routed tokens, float32, flat; see `grouped_lowrank.autograd`.
        weights: weights of the routed tokens, float32 [n].
        route: which tokens go to which expert.
        stacks: all experts' factors.
        factors: Bg, Bu and Ad of every expert in turn if they are trained, otherwise empty.

    """
    arguments = form, g_TH, u_TH, low, weights, route, stacks, *factors
    mixed_TH, rows = _Hidden.apply(*arguments)  # type: ignore[no-untyped-call]
    return mixed_TH, rows


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: Form, g: Tensor, u: Tensor, low: Tensor, weights: Tensor, route: Any,
        stacks: Any, *factors: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.form, ctx.route, ctx.stacks = form, route, stacks
        ctx.save_for_backward(g, u, low, weights, *factors)
        return form.forward(g, u, low, weights, route, stacks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mixed: Tensor, d_z: Tensor) -> tuple[Tensor | None, ...]:
        g, u, low, weights, *factors = ctx.saved_tensors
        given, arriving = (g, u, low, weights), (d_mixed, d_z)
        found, grads = ctx.form.backward(given, arriving, ctx.route, ctx.stacks, factors)
        return None, *found, None, None, *grads
