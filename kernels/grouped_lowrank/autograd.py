"""The two halves of a low-rank change as differentiable operations over routed tokens.

`project` takes tokens down to their experts' ranks, `expand_add` up again; the numbers between are
one flat float32 tensor, a row per routed token as long as its expert's rank. A *form* does the
work: `by_loops` on a CPU, `by_triton` on a GPU.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Route(Protocol):
    """Which tokens every expert has: `tokens`, expert by expert, and how many each has."""

    @property
    def tokens(self) -> Tensor:
        """Token indices, ascending for each expert."""

    @property
    def sizes(self) -> list[int]:
        """How many tokens every expert has."""


class Stack(Protocol):
    """The factors of one kind; expert e's row of `lengths[e]` numbers has parts at `firsts[e]`."""

    lengths: list[int]
    firsts: list[list[int]]
    ranks: list[list[int]]


class Form(Protocol):
    """What runs on a device."""

    def project(self, x_TD: Tensor, stack: Any, route: Any) -> Tensor:
        """A row A x for every routed token."""

    def expand_add(
        self, rows: Tensor, weights: Tensor, y_TO: Tensor, stack: Any, route: Any
    ) -> None:
        """`y_TO` += weight * B row for every routed token, in the experts' order."""

    def dots(self, one: Tensor, other: Tensor, weights: Tensor, stack: Any, route: Any) -> Tensor:
        """Inner products [n] of the routed tokens' rows; then `one` is scaled by the weights."""


def project(form: Form, x_TD: Tensor, route: Route, stack: Stack, factors: list[Tensor]) -> Tensor:
    """A row A x for every routed token, flat; `factors` are the stack's if they are trained."""
    rows: Tensor = _Project.apply(form, x_TD, route, stack, *factors)  # type: ignore[no-untyped-call]
    return rows


def expand_add(
    form: Form, y_TO: Tensor, rows: Tensor, weights: Tensor, route: Route, stack: Stack,
    factors: list[Tensor],
) -> Tensor:  # fmt: skip
    """A new tensor: `y_TO` + weight * B row for every routed token, [T, O]."""
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
    """For every expert: its tokens, and its rows [n, length]."""
    sizes = [n * size for n, size in zip(stack.lengths, route.sizes, strict=True)]
    rows = zip(torch.split(numbers, sizes), stack.lengths, route.sizes, strict=True)
    views = [part.view(size, length) for part, length, size in rows]
    return list(zip(torch.split(route.tokens, route.sizes), views, strict=True))


def split(joined: Tensor, stack: Stack, expert: int) -> list[Tensor]:
    """The rows of each of an expert's factors, without what fills ranks up."""
    pairs = zip(stack.firsts[expert], stack.ranks[expert], strict=True)
    return [joined[first : first + rank] for first, rank in pairs]
