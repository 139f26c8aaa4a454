"""How factors and routes lie in memory for the loops.

A factor of rank R is taken as rows [R, N]: A as it is, B transposed.

- *Wide* packing has strips of 128 columns, [N / 128, R, 128]. Rows of a whole matrix may lie a
  power of two apart, so that they evict each other from the cache.
- *Tall* packing is the transpose [N, R]. R is padded to a multiple of 8, the width of a vector;
  never to another expert's rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedmore.kernels.grouped_lowrank import loops
from fedmore.kernels.grouped_lowrank.factors import Factor, SignTensor, dense, version
from fedmore.kernels.grouped_lowrank.tiles import WIDTH, Matrix, padded, strips

Raw = TypeVar("Raw")


@dataclass(frozen=True)
class Held(Generic[Raw]):
    """Addresses for a loop, and the tensors there, which must live until the loop returns."""

    raw: Raw
    owners: tuple[Any, ...]


Matrices = Held[loops.Matrices]
Rows = Held[loops.Rows]


@dataclass(frozen=True)
class Route:
    """Expert e has ``tokens[starts[e]:starts[e + 1]]``, ascending; the batch has `count` tokens."""

    tokens: Tensor
    starts: list[int]
    count: int
    held: Held[loops.Route]

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each expert."""
        return [last - first for first, last in pairwise(self.starts)]


class Stack:
    """All experts' factors of one kind; each expert has a tuple of rows [R, N], stacked vertically.

    With `kept`, all experts are packed once, and again after a factor was written to. Otherwise
    every call packs the experts in use. Factors stored as sign1 are never kept decoded.
    """

    def __init__(
        self, experts: Sequence[tuple[Factor, ...]], transposed: bool, kept: bool = False
    ) -> None:
        self.experts, self.transposed = experts, transposed
        self.kept = kept and not any(isinstance(f, SignTensor) for e in experts for f in e)
        axis = int(transposed)
        self.ranks = [[f.shape[axis] for f in parts] for parts in experts]
        self.width = [parts[0].shape[1 - axis] for parts in experts]
        self.firsts = [_firsts([padded(r) for r in ranks]) for ranks in self.ranks]
        self.lengths = [sum(map(padded, ranks)) for ranks in self.ranks]
        self.cache: dict[bool, tuple[list[int], Matrices]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """State for a copy, without the packings: their addresses are valid only in this object."""
        return {**self.__dict__, "cache": {}}

    def wide(self, route: Route) -> Matrices:
        """Pack the rows in strips; if an expert has several factors, each rank is padded."""
        return self._packed(True, route)

    def tall(self, route: Route) -> Matrices:
        """Pack the same rows transposed, [N, R]."""
        return self._packed(False, route)

    def _packed(self, wide: bool, route: Route) -> Matrices:
        if not self.kept:
            return self._pack(wide, [size > 0 for size in route.sizes])
        versions = [version(f) for parts in self.experts for f in parts]
        found = self.cache.get(wide)
        if found is None or found[0] != versions:
            found = versions, self._pack(wide, [True] * len(self.experts))
            self.cache[wide] = found
        return found[1]

    def _pack(self, wide: bool, used: list[bool]) -> Matrices:
        # An expert with several factors has padding between them, and those rows count too.
        ranks = [r[0] if len(r) == 1 else n for r, n in zip(self.ranks, self.lengths, strict=True)]
        rows = [strips(n) * WIDTH for n in self.width] if wide else self.width
        lengths = ranks if wide else self.lengths
        sizes = [u * r * n for u, r, n in zip(used, rows, lengths, strict=True)]
        numbers = torch.zeros(sum(sizes))
        for expert, part in enumerate(torch.split(numbers, sizes)):
            if used[expert]:
                length, width = lengths[expert], self.width[expert]
                if wide:
                    self._fill(part.view(strips(width), length, WIDTH), expert)
                else:
                    self._fill(part.view(1, width, length).mT, expert)
        tables = torch.tensor([_firsts(sizes), self.lengths, ranks])
        return Held(loops.Matrices(address(numbers), *map(address, tables)), (numbers, tables))

    def _fill(self, block: Tensor, expert: int) -> None:
        """Write an expert's rows into strips [S, R, columns of a strip]."""
        width, factors = block.shape[2], self.experts[expert]
        parts = zip(factors, self.firsts[expert], self.ranks[expert], strict=True)
        for factor, first, rank in parts:
            rows = dense(factor).detach()
            rows = pad(rows.T if self.transposed else rows, (0, -self.width[expert] % width))
            block[:, first : first + rank] = rows.view(rank, len(block), width).transpose(0, 1)


def _firsts(sizes: Sequence[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))[:-1]


def address(tensor: Tensor) -> int:
    """Address of a tensor's first number; raises `ValueError` unless the tensor is contiguous."""
    if not tensor.is_contiguous():
        raise ValueError("a tensor for a loop must be contiguous")
    return tensor.data_ptr()


def matrix(tensor_TN: Tensor) -> Matrix:
    """Address and row length of a contiguous float32 matrix; the caller keeps the tensor alive."""
    if tensor_TN.dtype != torch.float32:
        raise ValueError(f"a matrix for a loop must be float32, not {tensor_TN.dtype}")
    return Matrix(address(tensor_TN), tensor_TN.shape[1])


def routed(gates_TE: Tensor) -> tuple[Route, Tensor]:
    """Return the route of all tokens with a non-zero weight, and these weights.

    The weights [n] are in the order of the route and differentiable.
    """
    count, experts = gates_TE.shape
    owner, tokens = gates_TE.detach().T.nonzero().T.contiguous()
    starts = torch.zeros(experts + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(owner, minlength=experts), 0, out=starts[1:])
    weights = gates_TE.reshape(-1).index_select(0, tokens * experts + owner)
    raw = loops.Route(address(tokens), address(starts), experts)
    return Route(tokens, starts.tolist(), count, Held(raw, (tokens, starts))), weights


def empty_rows(stack: Stack, route: Route) -> Tensor:
    """Allocate a row per routed token; float32, flat."""
    return torch.empty(sum(n * size for n, size in zip(stack.lengths, route.sizes, strict=True)))


def as_rows(numbers: Tensor, stack: Stack, route: Route) -> Rows:
    """Tables that let a loop find rows in the flat tensor `numbers`."""
    sizes = [n * size for n, size in zip(stack.lengths, route.sizes, strict=True)]
    tables = torch.tensor([_firsts(sizes), stack.lengths])
    return Held(loops.Rows(address(numbers), *map(address, tables)), (numbers, tables))
