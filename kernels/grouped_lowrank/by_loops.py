"""The numba loops as a form for `autograd`: float32, in torch's threads."""

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank import loops
from fedmore.kernels.grouped_lowrank.pack import Route, Stack, address, as_rows, empty_rows, matrix
from fedmore.kernels.grouped_lowrank.tiles import TILE
from fedmore.kernels.jit import in_chunks

# Tokens per call of a loop: with this number, a strip of 128 columns stays in the L2 cache.
CHUNK = 128


def project(x_TD: Tensor, stack: Stack, route: Route) -> Tensor:
    """See `autograd.Form`."""
    numbers, x = empty_rows(stack, route), x_TD.detach().contiguous()
    rows, matrices = as_rows(numbers, stack, route), stack.tall(route)
    given = matrix(x), matrices.raw, route.held.raw, rows.raw

    def work(start: int, stop: int) -> None:
        tiles = torch.zeros(2, TILE)
        loops.project(*given, address(tiles), start, stop)

    in_chunks(work, route.count, CHUNK)
    return numbers


def expand_add(rows: Tensor, weights: Tensor, y_TO: Tensor, stack: Stack, route: Route) -> None:
    """See `autograd.Form`."""
    rows, weights = rows.contiguous(), weights.contiguous()
    held, matrices = as_rows(rows, stack, route), stack.wide(route)
    given = held.raw, matrices.raw, route.held.raw, address(weights), matrix(y_TO)

    def work(start: int, stop: int) -> None:
        tiles = torch.zeros(2, TILE)
        loops.expand_add(*given, address(tiles), start, stop)

    in_chunks(work, route.count, CHUNK)


def dots(one: Tensor, other: Tensor, weights: Tensor, stack: Stack, route: Route) -> Tensor:
    """See `autograd.Form`."""
    found, weights = torch.empty(weights.shape), weights.contiguous()
    left, right = as_rows(one, stack, route), as_rows(other, stack, route)
    loops.dots(left.raw, right.raw, route.held.raw, address(weights), address(found))
    return found
