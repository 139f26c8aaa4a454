"""The specification of lowrank_sum: form the dense sum, then decompose it. Float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

Term = tuple[Tensor, Tensor, float]  # B [m, r], A [r, n], weight


def dense(terms: Sequence[Term]) -> Tensor:
    """Return ``sum_k w_k B_k A_k``, float64 [m, n]; no other matrix of that size is allocated."""
    total = torch.zeros(len(terms[0][0]), terms[0][1].shape[1], dtype=torch.float64)
    for b, a, w in terms:
        total.addmm_(b.double(), a.double(), alpha=w)
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
