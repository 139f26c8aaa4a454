"""The two halves of a low-rank change as differentiable operations over routed tokens, float32.

`project` takes tokens down to their experts' ranks, `expand_add` up again; the numbers between are
one flat tensor, a row per routed token as long as its expert's rank.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedmore.kernels.compiled import in_chunks
from fedmore.kernels.lora_mix import loops
from fedmore.kernels.lora_mix.pack import Route, Stack, address, as_rows, each, empty_rows, matrix
from fedmore.kernels.lora_mix.tiles import TILE, padded

# Tokens per call of a loop: a strip of 128 columns of theirs stays in the second-level cache.
CHUNK = 128


def project(x_TD: Tensor, route: Route, stack: Stack, factors: list[Tensor]) -> Tensor:
    """A row A x for every routed token, flat; `factors` are the stack's if they are trained."""
    rows: Tensor = _Project.apply(x_TD, route, stack, *factors)  # type: ignore[no-untyped-call]
    return rows


def expand_add(
    y_TO: Tensor, rows: Tensor, weights: Tensor, route: Route, stack: Stack, factors: list[Tensor]
) -> Tensor:
    """A new tensor: `y_TO` + weight * B row for every routed token, [T, O]."""
    arguments = y_TO, rows, weights, route, stack, *factors
    y: Tensor = _ExpandAdd.apply(*arguments)  # type: ignore[no-untyped-call]
    return y


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, route: Route, stack: Stack, *factors: Tensor) -> Tensor:
        ctx.route, ctx.stack = route, stack
        ctx.save_for_backward(x, *factors)
        return _project(x, stack, route)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        route, stack = ctx.route, ctx.stack
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.zeros(x.shape)
            _expand_add(d_rows, torch.ones(len(route.tokens)), dx, stack, route)
        grads: list[Tensor] = []
        if factors:
            for ranks, (tokens, d) in zip(stack.ranks, each(stack, route, d_rows), strict=True):
                grads += _split(d.T @ x.detach()[tokens], ranks)
        return dx, None, None, *grads


class _ExpandAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, rows: Tensor, weights: Tensor, route: Route, stack: Stack,
        *factors: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.route, ctx.stack = route, stack
        ctx.save_for_backward(rows, weights, *factors)
        out = y.detach().clone(memory_format=torch.contiguous_format)
        _expand_add(rows, weights, out, stack, route)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, *factors = ctx.saved_tensors
        route, stack, d_rows, d_weights = ctx.route, ctx.stack, None, None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            d_rows, d_weights = _project(dy, stack, route), torch.empty_like(weights)
            one, other = as_rows(d_rows, stack, route), as_rows(rows, stack, route)
            to = address(weights), address(d_weights)
            loops.dots(one.raw, other.raw, route.held.raw, *to)
        grads: list[Tensor] = []
        if factors:
            parts = each(stack, route, rows), torch.split(weights, route.sizes), stack.ranks
            for (tokens, low), weight, ranks in zip(*parts, strict=True):
                grads += [g.T for g in _split((low * weight[:, None]).T @ dy[tokens], ranks)]
        return dy, d_rows, d_weights, None, None, *grads


def _project(x: Tensor, stack: Stack, route: Route) -> Tensor:
    numbers, x = empty_rows(stack, route), x.detach().contiguous()
    rows, matrices = as_rows(numbers, stack, route), stack.tall(route)
    given = matrix(x), matrices.raw, route.held.raw, rows.raw

    def work(start: int, stop: int) -> None:
        tiles = torch.zeros(2, TILE)
        loops.project(*given, address(tiles), start, stop)

    in_chunks(work, route.count, CHUNK)
    return numbers


def _expand_add(numbers: Tensor, weights: Tensor, y: Tensor, stack: Stack, route: Route) -> None:
    numbers, weights = numbers.contiguous(), weights.contiguous()
    rows, matrices = as_rows(numbers, stack, route), stack.wide(route)
    given = rows.raw, matrices.raw, route.held.raw, address(weights), matrix(y)

    def work(start: int, stop: int) -> None:
        tiles = torch.zeros(2, TILE)
        loops.expand_add(*given, address(tiles), start, stop)

    in_chunks(work, route.count, CHUNK)


def _split(joined: Tensor, ranks: list[int]) -> list[Tensor]:
    """The rows of each factor; what fills their ranks up left out."""
    parts = torch.split(joined, [padded(rank) for rank in ranks])
    return [part[:rank] for part, rank in zip(parts, ranks, strict=True)]
