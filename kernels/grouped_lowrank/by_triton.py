"""Triton kernels as a form for `autograd`: float32, bfloat16, float16; sums in float32.

Rows are computed expert by expert: a program has tokens of one expert. They are added up token by
token: a program has tokens with all their experts. So nothing is added atomically, and results do
not vary. Ranks differ and are not padded in memory. Products of float32 are IEEE, not TF32.

Arguments of the kernels, all pointers to contiguous memory if not said otherwise:

- `numbers`: all experts' factors; `table` [2, E]: an expert's first number there, and its rank
- `rows`: a row of rank numbers per routed token; `rows_at` [E]: an expert's first number there
- `tokens` [n]: the tokens of routed tokens j, in the order of the experts; `starts` [E + 1]
- `tiles` [programs, 3], `place` [T, E]: see `Route`
- `x` [T, width], `y` [count, width]; `width`, `count`, `experts` are numbers
- TRANSPOSED: a factor lies as [width, rank], not [rank, width]; RANKS: ranks per tile
- WIDEN: convert to float32 before a product (see `widen`)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fedmore.kernels.grouped_lowrank.factors import Factor, SignTensor, dense, version
from fedmore.kernels.jit import triton_jit

TOKENS, COLUMNS, INNER = 32, 64, 32  # the shape of a program's tiles


@dataclass(frozen=True)
class Route:
    """Which tokens are routed to which expert, in tables for the kernels.

    `place_TE` is a token's number among the routed tokens of all experts, or -1 if it is not routed
    to this expert. `starts` is as in `pack`. A row of `tiles` [programs, 3] is a program's expert
    and the half-open range of its routed tokens.
    """

    tokens: Tensor
    sizes: list[int]
    starts: Tensor
    place_TE: Tensor
    tiles: Tensor


def routed(gates_TE: Tensor) -> tuple[Route, Tensor]:
    """Return the route of all tokens with a non-zero weight, and these weights, float32 [n]."""
    experts = gates_TE.shape[1]
    owner, tokens = gates_TE.detach().T.nonzero().T.contiguous()
    sizes = torch.bincount(owner, minlength=experts).tolist()
    weights = gates_TE.reshape(-1).index_select(0, tokens * experts + owner).float()
    place = torch.full(gates_TE.shape, -1, dtype=torch.int32, device=gates_TE.device)
    place[tokens, owner] = torch.arange(len(tokens), dtype=torch.int32, device=place.device)
    ends = list(accumulate(sizes, initial=0))
    tiles = [
        (expert, first, min(first + TOKENS, last))
        for expert, (start, last) in enumerate(pairwise(ends))
        for first in range(start, last, TOKENS)
    ]
    numbers = torch.tensor(tiles, dtype=torch.int64, device=place.device).view(-1, 3)
    return Route(tokens, sizes, torch.tensor(ends, device=place.device), place, numbers), weights


class Stack:
    """All experts' factors of one kind, one after the other in memory; see `pack.Stack`."""

    def __init__(
        self, experts: Sequence[tuple[Factor, ...]], transposed: bool, kept: bool = False
    ) -> None:
        self.experts, self.transposed = experts, transposed
        self.kept = kept and not any(isinstance(f, SignTensor) for parts in experts for f in parts)
        self.ranks = [[f.shape[int(transposed)] for f in parts] for parts in experts]
        self.lengths = [sum(ranks) for ranks in self.ranks]
        self.firsts = [list(accumulate(ranks, initial=0))[:-1] for ranks in self.ranks]
        self.cache: tuple[list[int], tuple[Tensor, Tensor]] | None = None

    def packed(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return all numbers in the device and dtype of `like`, and the table [2, E]."""
        versions = [version(f) for parts in self.experts for f in parts]
        if self.kept and self.cache and self.cache[0] == versions:
            return self.cache[1]
        parts = [torch.cat([dense(f) for f in e], int(self.transposed)) for e in self.experts]
        numbers = torch.cat([p.detach().reshape(-1) for p in parts]).to(like.device, like.dtype)
        firsts = list(accumulate((p.numel() for p in parts), initial=0))[:-1]
        made = numbers, torch.tensor([firsts, self.lengths], device=like.device)
        self.cache = (versions, made) if self.kept else None
        return made

    def rows_at(self, route: Route) -> Tensor:
        """Offset of every expert's first row, int64 [E]."""
        sizes = (n * size for n, size in zip(self.lengths, route.sizes, strict=True))
        ends = list(accumulate(sizes, initial=0))
        return torch.tensor(ends[:-1], device=route.tokens.device)

    def empty_rows(self, route: Route) -> Tensor:
        """Allocate a row per routed token; float32, flat."""
        count = sum(n * size for n, size in zip(self.lengths, route.sizes, strict=True))
        return torch.empty(count, dtype=torch.float32, device=route.tokens.device)

    def block(self) -> int:
        """Ranks per tile: a power of two from 16, the least that `tl.dot` takes, to 64."""
        widest: int = triton.next_power_of_2(max(self.lengths))
        return min(64, max(16, widest))


@triton_jit
def product(a: Any, b: Any, WIDEN: tl.constexpr) -> Any:
    """Multiply two tiles with a float32 sum."""
    if WIDEN:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@triton_jit
def factor_tile(
    numbers: Any, r: Any, n: Any, rank: Any, width: Any, TRANSPOSED: tl.constexpr
) -> Any:
    """Load the tile (r, n) of a factor [rank, width], which may lie transposed in memory."""
    at = n * rank + r if TRANSPOSED else r * width + n
    return tl.load(numbers + at, mask=(r < rank) & (n < width), other=0.0)


@triton_jit
def expanded(
    total: Any, rows: Any, row: Any, ok: Any, numbers: Any, n: Any, first: Any, rank: Any,
    width: Any, TRANSPOSED: tl.constexpr, RANKS: tl.constexpr, WIDEN: tl.constexpr,
) -> Any:  # fmt: skip
    """`total` + rows times columns n of a factor; of each row, `rank` numbers from `first` on."""
    for r0 in range(0, rank, RANKS):
        r = r0 + tl.arange(0, RANKS)
        low = tl.load(
            rows + row[:, None] + first + r[None, :],
            mask=ok[:, None] & (r < rank)[None, :], other=0.0,
        )  # fmt: skip
        b = factor_tile(numbers, r[:, None], n[None, :], rank, width, TRANSPOSED)
        total += product(low.to(b.dtype), b, WIDEN)
    return total


@triton_jit
def _project(
    x: Any, width: Any, numbers: Any, table: Any, tokens: Any, tiles: Any, starts: Any, rows: Any,
    rows_at: Any, experts: Any, TRANSPOSED: tl.constexpr, RANKS: tl.constexpr,
    WIDEN: tl.constexpr, TOKENS: tl.constexpr, INNER: tl.constexpr,
) -> None:  # fmt: skip
    tile = tiles + 3 * tl.program_id(0)
    expert = tl.load(tile)
    j = tl.load(tile + 1) + tl.arange(0, TOKENS)
    ok = j < tl.load(tile + 2)
    token = tl.load(tokens + j, mask=ok, other=0)
    mine, rank = numbers + tl.load(table + expert), tl.load(table + experts + expert)
    row = tl.load(rows_at + expert) + (j - tl.load(starts + expert)) * rank
    for r0 in range(0, rank, RANKS):
        r = r0 + tl.arange(0, RANKS)
        total = tl.zeros((TOKENS, RANKS), tl.float32)
        for k0 in range(0, width, INNER):
            k = k0 + tl.arange(0, INNER)
            inside = ok[:, None] & (k < width)[None, :]
            part = tl.load(x + token[:, None] * width + k[None, :], mask=inside, other=0.0)
            a = factor_tile(mine, r[None, :], k[:, None], rank, width, TRANSPOSED)
            total += product(part, a, WIDEN)
        tl.store(rows + row[:, None] + r[None, :], total, mask=ok[:, None] & (r < rank)[None, :])


@triton_jit
def _expand_add(
    rows: Any, rows_at: Any, weights: Any, numbers: Any, table: Any, place: Any, starts: Any,
    y: Any, count: Any, width: Any, experts: Any, TRANSPOSED: tl.constexpr, RANKS: tl.constexpr,
    WIDEN: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (t < count)[:, None] & (n < width)[None, :]
    at = y + t[:, None] * width + n[None, :]
    total = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    for expert in range(experts):
        j = tl.load(place + t * experts + expert, mask=t < count, other=-1)
        if tl.max(j, axis=0) >= 0:
            ok = j >= 0
            rank = tl.load(table + experts + expert)
            row = tl.load(rows_at + expert) + (j - tl.load(starts + expert)) * rank
            part = expanded(
                tl.zeros((TOKENS, COLUMNS), tl.float32), rows, row, ok,
                numbers + tl.load(table + expert), n, 0, rank, width, TRANSPOSED, RANKS, WIDEN,
            )  # fmt: skip
            weight = tl.load(weights + j, mask=ok, other=0.0)
            # A mask, not a weight of zero: zero times an expert's infinity would be NaN.
            total += tl.where(ok[:, None], weight[:, None] * part, 0.0)
    tl.store(at, total, mask=inside)


def widen() -> bool:
    """Whether to convert to float32 before a product: Triton's interpreter gets bfloat16 wrong."""
    return bool(triton.knobs.runtime.interpret)


def project(x_TD: Tensor, stack: Stack, route: Route) -> Tensor:
    """See `autograd.Form`."""
    x, rows = x_TD.detach().contiguous(), stack.empty_rows(route)
    numbers, table = stack.packed(x)
    if len(route.tiles) and rows.numel():
        _project[(len(route.tiles),)](
            x, x.shape[1], numbers, table, route.tokens, route.tiles, route.starts, rows,
            stack.rows_at(route), table.shape[1], TRANSPOSED=stack.transposed,
            RANKS=stack.block(), WIDEN=widen(), TOKENS=TOKENS, INNER=INNER,
        )  # fmt: skip
    return rows


def expand_add(rows: Tensor, weights: Tensor, y_TO: Tensor, stack: Stack, route: Route) -> None:
    """See `autograd.Form`."""
    numbers, table = stack.packed(y_TO)
    count, width = y_TO.shape
    if len(route.tiles):
        grid = (triton.cdiv(count, TOKENS), triton.cdiv(width, COLUMNS))
        _expand_add[grid](
            rows.contiguous(), stack.rows_at(route), weights.contiguous(), numbers, table,
            route.place_TE, route.starts, y_TO, count, width, table.shape[1],
            TRANSPOSED=stack.transposed, RANKS=stack.block(), WIDEN=widen(), TOKENS=TOKENS,
            COLUMNS=COLUMNS,
        )  # fmt: skip


def dots(one: Tensor, other: Tensor, weights: Tensor, stack: Stack, route: Route) -> Tensor:
    """See `autograd.Form`."""
    lengths = torch.tensor(stack.lengths, device=one.device)
    sizes = torch.tensor(route.sizes, device=one.device)
    # Which routed token every number belongs to.
    owner = torch.arange(len(weights), device=one.device)
    owner = owner.repeat_interleave(lengths.repeat_interleave(sizes))
    found = torch.zeros_like(weights).index_add_(0, owner, one * other)
    one *= weights[owner]
    return found
