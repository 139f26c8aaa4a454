"""lowrank_sum by QR of the stacked factors and an SVD of the core; equals `reference` to rounding.

It is plain torch and serves every device. Results are float64 and stay on the terms' device. A sum
with a full-size term is dense; its norms are taken block by block, so that they need no second
matrix of its size.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

LowRankTerm = tuple[Tensor, Tensor, float]  # B [m, r], A [r, n], weight
Term = LowRankTerm | tuple[Tensor, float]  # the same, or D [m, n], weight
Factors = tuple[Tensor, Tensor]  # B [m, R], A [R, n]
Sum = Factors | tuple[Tensor]  # the same, or D [m, n]

# Singular values below this fraction of the largest come from rounding of float32 factors. If they
# were kept, the aggregate's rank would grow by the sum of ranks in every round.
NOISE = 3e-7

# Below this fraction of the stacked factors' product only float64 rounding remains. It counts as
# zero, so that terms which cancel out do not sum to a matrix of noise.
ROUNDING = 1e-14

# Layers whose stacked factors have at most this many numbers are decomposed together, because the
# calls cost more than the work. Larger layers gain nothing from it.
SMALL = 1 << 15

# Rows of a dense sum that are in memory at once where it is only measured.
ROWS = 256


def aggregate(terms: Sequence[Term], max_rank: int) -> Sum:
    """Return factors (B [m, R], A [R, n]), float64, of ``sum_k w_k B_k A_k``, ``R <= max_rank``.

    The result is exact except for singular values beyond `max_rank` or below `NOISE` of the
    largest. The split is balanced: both factors carry the square root of the singular values. With
    a full-size term it is the exact dense sum (D [m, n],).
    """
    products, dense = parted(terms)
    return (matrix(terms),) if dense else aggregate_products(products, max_rank)


def aggregate_products(terms: Sequence[LowRankTerm], max_rank: int) -> Factors:
    """Apply `aggregate` to a sum without a full-size term."""
    q_b, q_a, core, floor = _reduce(*stack(terms))
    u, s, vh = torch.linalg.svd(core)
    return _factors(q_b, q_a, u, s, vh, _kept(s, floor, max_rank))


def fold(terms: Sequence[Term], tolerance: float) -> tuple[Sum, float]:
    """Return the sum at the lowest rank that `tolerance` allows, and the relative error.

    The factors (B [m, R], A [R, n]) are float64 and balanced. The omitted directions hold at most
    the fraction `tolerance` of the sum's Frobenius norm; the returned error is the true fraction.
    A sum with a full-size term is dense, (D [m, n],), and omits nothing.
    """
    products, dense = parted(terms)
    return ((matrix(terms),), 0.0) if dense else fold_products(products, tolerance)


def fold_products(terms: Sequence[LowRankTerm], tolerance: float) -> tuple[Factors, float]:
    """Apply `fold` to a sum without a full-size term."""
    q_b, q_a, core, floor = _reduce(*stack(terms))
    u, s, vh = torch.linalg.svd(core)
    s = torch.where(s > floor, s, 0.0)
    left = s.square().flip(0).cumsum(0).flip(0).sqrt()  # norm lost if cut before each direction
    size = float(left[0]) if len(s) else 0.0
    kept = int((left > tolerance * size).sum())
    lost = float(left[kept]) if kept < len(s) else 0.0
    return _factors(q_b, q_a, u, s, vh, kept), lost / size if size else 0.0


def aggregate_layers(layers: Sequence[Sequence[LowRankTerm]], max_rank: int) -> list[Factors]:
    """Apply `aggregate` to every layer of a model; small layers of equal shapes go in one batch.

    A layer's result equals that of `aggregate` to float64 rounding. The same layers in the same
    order give the same bits.
    """
    groups: dict[object, list[int]] = {}
    for i, terms in enumerate(layers):
        (m, n), ranks = (terms[0][0].shape[0], terms[0][1].shape[1]), _ranks(terms)
        small = (m + n) * sum(ranks) <= SMALL
        groups.setdefault((m, n, *ranks) if small else i, []).append(i)
    results: dict[int, Factors] = {}
    for members in groups.values():
        if len(members) == 1:
            results[members[0]] = aggregate_products(layers[members[0]], max_rank)
        else:
            results.update(
                zip(members, _together([layers[i] for i in members], max_rank), strict=True)
            )
    return [results[i] for i in range(len(layers))]


def truncate(b: Tensor, a: Tensor, rank: int) -> Factors:
    """Return the balanced factors of the best approximation of ``b a`` with at most `rank`."""
    return aggregate_products([(b, a, 1.0)], rank)


def dense_blocks(terms: Sequence[Term], rows: int = ROWS) -> Iterator[Tensor]:
    """Yield the dense sum as float64 blocks [rows, n] from the top; the last may have fewer rows.

    Memory holds one block and the stacked factors. Raises `ValueError` unless `rows` is positive.
    """
    if rows < 1:
        raise ValueError(f"lowrank_sum: rows is {rows}, must be at least 1")
    products, dense = parted(terms)
    stacked_b, stacked_a = stack(products or [nothing(terms[0])])
    for start in range(0, len(stacked_b), rows):
        block = stacked_b[start : start + rows] @ stacked_a
        for whole, weight in dense:
            block.add_(whole[start : start + rows].detach(), alpha=weight)
        yield block


def norm(terms: Sequence[Term]) -> float:
    """Frobenius norm of the sum, without forming it."""
    products, dense = parted(terms)
    if dense:
        return math.sqrt(sum(float(block.square().sum()) for block in dense_blocks(terms)))
    _, _, core, floor = _reduce(*stack(products))
    size = float(core.norm())
    return size if size > floor else 0.0


def relative_error(terms: Sequence[Term], *found: Tensor) -> float:
    """Relative Frobenius error of B and A, or of D, against the exact sum (0 if both are zero)."""
    error, exact = norm([*terms, term(found, -1.0)]), norm(terms)
    if error == 0:
        return 0.0
    return error / exact if exact else float("inf")


def term(product: Sequence[Tensor], weight: float) -> Term:
    """Return the term of a product (B, A) or of a full-size matrix (D,)."""
    if len(product) == 1:
        return product[0], weight
    b, a = product
    return b, a, weight


def weighted(one: Term, factor: float) -> Term:
    """Return a term with its weight multiplied by `factor`."""
    if len(one) == 2:
        return one[0], one[1] * factor
    return one[0], one[1], one[2] * factor


def matrix(terms: Sequence[Term]) -> Tensor:
    """Return the sum as one matrix [m, n], float64."""
    return _dense(*parted(terms), like=terms[0])


def nothing(like: Term) -> LowRankTerm:
    """Return a product of rank 0 with the shape of a term."""
    b, a = (like[0], like[0]) if len(like) == 2 else like[:2]
    return b[:, :0], a[:0], 1.0


def parted(terms: Sequence[Term]) -> tuple[list[LowRankTerm], list[tuple[Tensor, float]]]:
    """Return the low-rank terms of a sum and its full-size ones."""
    products = [each for each in terms if len(each) == 3]
    return products, [each for each in terms if len(each) == 2]


def _dense(
    products: Sequence[LowRankTerm], dense: Sequence[tuple[Tensor, float]], like: Term
) -> Tensor:
    """Add everything up in float64, [m, n]; no other matrix of that size is allocated."""
    b, a, _ = nothing(like)
    total = torch.zeros(len(b), a.shape[1], dtype=torch.float64, device=b.device)
    for whole, weight in dense:
        total.add_(whole.detach(), alpha=weight)
    for b, a, weight in products:
        total.addmm_(b.detach().double(), a.detach().double(), alpha=weight)
    return total


def stack(terms: Sequence[LowRankTerm]) -> Factors:
    """Stack all weighted B side by side [m, R] and all A vertically [R, n]; their product is D."""
    (b, a, _), ranks = terms[0], _ranks(terms)
    stacked_b = b.new_empty((b.shape[0], sum(ranks)), dtype=torch.float64)
    stacked_a = a.new_empty((sum(ranks), a.shape[1]), dtype=torch.float64)
    to_bs, to_as = torch.split(stacked_b, ranks, 1), torch.split(stacked_a, ranks)
    for (b, a, weight), to_b, to_a in zip(terms, to_bs, to_as, strict=True):
        to_b.copy_(b.detach()).mul_(weight)
        to_a.copy_(a.detach())
    return stacked_b, stacked_a


def _ranks(terms: Sequence[LowRankTerm]) -> list[int]:
    return [a.shape[0] for _, a, _ in terms]


def _together(layers: Sequence[Sequence[LowRankTerm]], max_rank: int) -> list[Factors]:
    stacks = [stack(terms) for terms in layers]
    q_b, q_a, core, floors = _reduce(*(torch.stack(side) for side in zip(*stacks, strict=True)))
    u, s, vh = torch.linalg.svd(core)
    kept = [_kept(s[i], floors[i], max_rank) for i in range(len(layers))]
    return [_factors(q_b[i], q_a[i], u[i], s[i], vh[i], kept[i]) for i in range(len(layers))]


def _reduce(stacked_b: Tensor, stacked_a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return orthonormal bases of the stacked B and A, the core between them, and its rounding."""
    q_b, r_b = torch.linalg.qr(stacked_b)
    q_a, r_a = torch.linalg.qr(stacked_a.mT)
    floor = ROUNDING * r_b.flatten(-2).norm(dim=-1) * r_a.flatten(-2).norm(dim=-1)
    return q_b, q_a, r_b @ r_a.mT, floor


def _kept(s: Tensor, floor: Tensor, max_rank: int) -> int:
    return min(max_rank, int(((s > NOISE * s[:1]) & (s > floor)).sum()))


def _factors(q_b: Tensor, q_a: Tensor, u: Tensor, s: Tensor, vh: Tensor, kept: int) -> Factors:
    root = s[:kept].sqrt()
    return q_b @ (u[:, :kept] * root), (root[:, None] * vh[:kept]) @ q_a.mT
