"""The two halves of a low-rank change as differentiable operations over routed tokens.

`project` takes tokens down to their experts' ranks, and `expand_add` takes them up again. Between
the two lies one flat float32 tensor: a row per routed token, as long as its expert's rank. A *form*
does the work: `by_loops` on a CPU, `by_triton` on a GPU.

Shapes: T tokens, D in, O out, E experts, n routed tokens.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Route(Protocol):
    """Which tokens are routed to which expert, listed expert by expert."""

    @property
    def tokens(self) -> Tensor:
        """Indices of the routed tokens, int64 [n]; ascending within each expert."""

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each expert."""


class Stack(Protocol):
    """All experts' factors of one kind.

    A routed token's row at expert e has `lengths[e]` numbers. If an expert has several factors one
    above the other, factor i takes `ranks[e][i]` of them, from `firsts[e][i]` on.
    """

    lengths: list[int]
    firsts: list[list[int]]
    ranks: list[list[int]]


class Form(Protocol):
    """The loops or kernels of one device."""

    def project(self, x_TD: Tensor, stack: Any, route: Any) -> Tensor:
        """Compute a row A x for every routed token; float32, flat."""

    def expand_add(
        self, rows: Tensor, weights: Tensor, y_TO: Tensor, stack: Any, route: Any
    ) -> None:
        """`y_TO` += weight * B row for every routed token, in the experts' order."""

    def dots(self, one: Tensor, other: Tensor, weights: Tensor, stack: Any, route: Any) -> Tensor:
        """Return inner products [n] of the routed tokens' rows, then scale `one` by the weights."""


def project(form: Form, x_TD: Tensor, route: Route, stack: Stack, factors: list[Tensor]) -> Tensor:
    """Compute a row A x for every routed token; float32, flat.

    `factors` are those of the stack if they are trained, otherwise empty.
    """
    rows: Tensor = _Project.apply(form, x_TD, route, stack, *factors)  # type: ignore[no-untyped-call]
    return rows


def expand_add(
    form: Form, y_TO: Tensor, rows: Tensor, weights: Tensor, route: Route, stack: Stack,
    factors: list[Tensor],
) -> Tensor:  # fmt: skip
    """Return `y_TO` + weight * B row, summed over every token's experts, as a new tensor [T, O].

    Args:
        form: the loops or kernels of the device.
        y_TO: what is added to; unchanged.
        rows: the routed tokens' rows, float32, flat, as `project` returns them.
        weights: the routed tokens' weights, float32 [n].
        route: which tokens go to which expert.
        stack: the factors B of all experts.
        factors: those factors if they are trained, otherwise empty.

    """
    arguments = form, y_TO, rows, weights, route, stack, *factors
    y: Tensor = _ExpandAdd.apply(*arguments)  # type: ignore[no-untyped-call]
    return y


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: Form, x: Tensor, route: Route, stack: Stack, *factors: Tensor
    ) -> Tensor:
        ctx.form, ctx.route, ctx.stack = form, route, stack
        ctx.save_for_backward(x, *factors)
        return form.project(x, stack, route)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        route, stack, dx = ctx.route, ctx.stack, None
        if ctx.needs_input_grad[1]:
            dx = torch.zeros_like(x, memory_format=torch.contiguous_format)
            ctx.form.expand_add(d_rows, d_rows.new_ones(len(route.tokens)), dx, stack, route)
        grads: list[Tensor] = []
        if factors:
            for e, (tokens, d) in enumerate(each(stack, route, d_rows)):
                grads += split(d.T.to(x.dtype) @ x[tokens], stack, e)
        return None, dx, None, None, *grads


class _ExpandAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: Form, y: Tensor, rows: Tensor, weights: Tensor, route: Route, stack: Stack,
        *factors: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.form, ctx.route, ctx.stack = form, route, stack
        ctx.save_for_backward(rows, weights, *factors)
        out = y.detach().clone(memory_format=torch.contiguous_format)
        form.expand_add(rows, weights, out, stack, route)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, *factors = ctx.saved_tensors
        route, stack, d_rows, d_weights = ctx.route, ctx.stack, None, None
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            d_rows = ctx.form.project(dy, stack, route)
            d_weights = ctx.form.dots(d_rows, rows, weights, stack, route)
        grads: list[Tensor] = []
        if factors:
            parts = zip(each(stack, route, rows), torch.split(weights, route.sizes), strict=True)
            for e, ((tokens, low), weight) in enumerate(parts):
                joined = (low * weight[:, None]).T.to(dy.dtype) @ dy[tokens]
                grads += [g.T for g in split(joined, stack, e)]
        return None, dy, d_rows, d_weights, None, None, *grads


def each(stack: Stack, route: Route, numbers: Tensor) -> list[tuple[Tensor, Tensor]]:
    """List every expert's token indices [n] and rows [n, length]."""
    sizes = [n * size for n, size in zip(stack.lengths, route.sizes, strict=True)]
    rows = zip(torch.split(numbers, sizes), stack.lengths, route.sizes, strict=True)
    views = [part.view(size, length) for part, length, size in rows]
    return list(zip(torch.split(route.tokens, route.sizes), views, strict=True))


def split(joined: Tensor, stack: Stack, expert: int) -> list[Tensor]:
    """Split an expert's rows by factor, without the padding of the ranks."""
    pairs = zip(stack.firsts[expert], stack.ranks[expert], strict=True)
    return [joined[first : first + rank] for first, rank in pairs]
