"""The specification of lowrank_sum: form the dense sum, then decompose it. Float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

Term = tuple[Tensor, Tensor, float] | tuple[Tensor, float]  # B [m, r], A [r, n] or D [m, n]; weight


def dense(terms: Sequence[Term]) -> Tensor:
    """Return ``sum_k w_k B_k A_k``, float64 [m, n]; no other matrix of that size is allocated."""
    first = terms[0]
    width = first[0].shape[1] if len(first) == 2 else first[1].shape[1]
    total = torch.zeros(len(first[0]), width, dtype=torch.float64)
    for term in terms:
        if len(term) == 2:
            total.add_(term[0].double(), alpha=term[1])
        else:
            total.addmm_(term[0].double(), term[1].double(), alpha=term[2])
    return total


def aggregate(terms: Sequence[Term], max_rank: int) -> tuple[Tensor, Tensor]:
    """Return the best rank-`max_rank` factors (B [m, R], A [R, n]) by SVD of the dense matrix."""
    u, s, vh = torch.linalg.svd(dense(terms), full_matrices=False)
    root = s[:max_rank].sqrt()
    return u[:, :max_rank] * root, root[:, None] * vh[:max_rank]


def fold(terms: Sequence[Term], tolerance: float) -> tuple[Tensor, Tensor]:
    """Return factors of the lowest rank whose relative Frobenius error is at most `tolerance`."""
    u, s, vh = torch.linalg.svd(dense(terms), full_matrices=False)
    ranks = range(len(s) + 1)
    kept = next(r for r in ranks if float(s[r:].norm()) <= tolerance * float(s.norm()))
    root = s[:kept].sqrt()
    return u[:, :kept] * root, root[:, None] * vh[:kept]


def relative_error(terms: Sequence[Term], b: Tensor, a: Tensor) -> float:
    """Relative Frobenius error of ``b a`` against the exact sum."""
    exact = dense(terms)
    return float((exact - b.double() @ a.double()).norm() / exact.norm())
