"""lowrank_sum of many products, in memory and time that their number does not multiply.

The ranks of the terms add up: a hundred owners of rank 16 stack to 1,600 columns, and QR of the
stack costs their square. Above `WIDE` columns there are two other ways:

- If the smaller side of the matrix is at most `WIDE`, the dense sum holds no more numbers than a
  stack of that width. It is formed term by term and decomposed: exact.
- Otherwise the terms are folded in blocks. The running sum keeps its leading
  ``max_rank + WIDE / 2`` directions, so it is exact to float64 rounding up to that rank. Beyond it
  what a fold leaves out is lost (as in Brand's incremental SVD, 2006), and the error says how much.

A sum with a full-size term is dense whatever the limits: it is neither decomposed nor cut.

Up to `WIDE` columns the result has the bits of `cpu.aggregate`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.kernels.lowrank_sum import cpu
from fedmore.kernels.lowrank_sum.cpu import NOISE, ROUNDING, Factors, LowRankTerm, Sum, Term

WIDE = 1024
"""Number of stacked columns up to which they are decomposed at once."""

PROBES = 64
"""Number of random vectors by which the error of folded blocks is measured."""

Error = Callable[[Tensor, Tensor], float]  # from factors to the norm of what they lack


@dataclass(frozen=True)
class Stored:
    """A sum as it is kept: (B [m, R], A [R, n]) or (D [m, n],) in float32, and two Frobenius norms.

    `size` is that of the exact sum, and `error` that of what the factors lack, with rounding.
    """

    factors: Sum
    error: float
    size: float


def stored(terms: Sequence[Term], max_rank: int, energy: float = 1.0, wide: int = WIDE) -> Stored:
    """The sum at the lowest rank that holds the share `energy` of it, and at most at `max_rank`.

    The share is of the squared singular values. The norms are exact, except after folds in blocks.
    Then `size` is without what the folds lost, and `error` is estimated with `PROBES` random
    vectors of a fixed seed, to about ``1 / sqrt(2 PROBES d)`` of itself for d equal directions.
    """
    products, whole = cpu.parted(terms)
    if whole:
        kept_whole = (cpu.matrix(terms).float(),)
        return Stored(kept_whole, cpu.norm([*terms, (*kept_whole, -1.0)]), cpu.norm(terms))
    m, n = products[0][0].shape[0], products[0][1].shape[1]
    if sum(a.shape[0] for _, a, _ in products) <= wide:
        (b, a), size, error = _at_once(products, max_rank)
    elif min(m, n) <= wide:
        (b, a), size, error = _dense(products, max_rank)
    else:
        (b, a), size, error = _in_blocks(products, max_rank, wide)
    kept = _sharing(b, a, energy * size**2) if energy < 1 else a.shape[0]
    b, a = b[:, :kept].float(), a[:kept].float()
    return Stored((b, a), error(b, a), size)


def _at_once(terms: Sequence[LowRankTerm], max_rank: int) -> tuple[Factors, float, Error]:
    found = cpu.aggregate_products(terms, max_rank)
    return found, cpu.norm(terms), lambda b, a: cpu.norm([*terms, (b, a, -1.0)])


def _dense(terms: Sequence[LowRankTerm], max_rank: int) -> tuple[Factors, float, Error]:
    m, n = terms[0][0].shape[0], terms[0][1].shape[1]
    total = terms[0][0].new_zeros((m, n), dtype=torch.float64)
    for b, a, weight in terms:
        total.addmm_(b.double(), a.double(), alpha=weight)
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    floor = _floor(terms)
    kept = min(max_rank, int((s > max(NOISE * float(s[0]), floor)).sum()))
    root = s[:kept].sqrt()
    factors = u[:, :kept] * root, root[:, None] * vh[:kept]
    size = float(s.norm()) if kept else 0.0
    return factors, size, lambda b, a: _above(floor, total - b.double() @ a.double())


def _in_blocks(
    terms: Sequence[LowRankTerm], max_rank: int, wide: int
) -> tuple[Factors, float, Error]:
    n = terms[0][1].shape[1]
    drawn = torch.randn(n, PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = drawn.to(terms[0][1].device)
    exact, floor = _times(terms, probe), _floor(terms)

    def error(b: Tensor, a: Tensor) -> float:
        return _above(floor, (exact - _times([(b, a, 1.0)], probe)) / PROBES**0.5)

    b, a = _folded(terms, max_rank + wide // 2, wide // 2)
    size = _above(floor, b.norm(dim=0) * a.norm(dim=1))  # the singular values
    return cpu.truncate(b, a, max_rank), size, error


def _above(floor: float, found: Tensor) -> float:
    """The Frobenius norm, or 0 if it is no more than rounding."""
    size = float(found.norm())
    return size if size > floor else 0.0


def _folded(terms: Sequence[LowRankTerm], most: int, columns: int) -> Factors:
    """The sum at a rank of at most `most`; a block has `columns` columns, or is one term."""
    (b, a, _), rest = terms[0], list(terms)
    running = b[:, :0].double(), a[:0].double()
    while rest:
        block = [rest.pop(0)]
        while rest and sum(a.shape[0] for _, a, _ in [*block, rest[0]]) <= columns:
            block.append(rest.pop(0))
        (b, a), _ = cpu.fold_products([(*running, 1.0), *block], 0.0)
        running = b[:, :most], a[:most]
    return running


def _times(terms: Sequence[LowRankTerm], probe: Tensor) -> Tensor:
    """The sum times the columns of `probe`, float64."""
    total = probe.new_zeros((terms[0][0].shape[0], probe.shape[1]))
    for b, a, weight in terms:
        total.addmm_(b.double(), a.double() @ probe, alpha=weight)
    return total


def _floor(terms: Sequence[LowRankTerm]) -> float:
    """Below this only rounding of float64 remains."""
    left = sum(float(b.double().norm()) ** 2 * weight**2 for b, _, weight in terms)
    right = sum(float(a.double().norm()) ** 2 for _, a, _ in terms)
    return ROUNDING * math.sqrt(left * right)


def _sharing(b_OR: Tensor, a_RI: Tensor, wanted: float) -> int:
    """Number of leading directions of balanced factors whose squares sum up to `wanted`."""
    squares = (b_OR.norm(dim=0) * a_RI.norm(dim=1)).square().cumsum(0)
    return min(len(squares), int((squares < wanted * (1 - 1e-12)).sum()) + 1)
