"""delta by QR of the stacked factors and an SVD of the core; equals `reference` to rounding."""

from collections.abc import Sequence

import torch
from torch import Tensor

Term = tuple[Tensor, Tensor, float]  # B [m, r], A [r, n], weight

# Singular values below this part of the largest are rounding of float32 factors: kept, they would
# add the sum of ranks to the aggregate's rank in every round.
NOISE = 3e-7

# Below this part of the stacked factors' product nothing is left but rounding of float64: terms
# that cancel out sum to zero, not to a matrix of noise.
ROUNDING = 1e-14


def aggregate(terms: Sequence[Term], max_rank: int) -> tuple[Tensor, Tensor]:
    """Factors (B [m, R], A [R, n]), float64, of ``sum_k w_k B_k A_k``, ``R <= max_rank``.

    Exact but for singular values beyond `max_rank` and below `NOISE` of the largest. The split is
    balanced: both factors carry the square root of the singular values.
    """
    q_b, q_a, core, floor = _reduce(terms)
    u, s, vh = torch.linalg.svd(core)
    kept = min(max_rank, int(((s > NOISE * s[:1]) & (s > floor)).sum()))
    root = s[:kept].sqrt()
    return q_b @ (u[:, :kept] * root), (root[:, None] * vh[:kept]) @ q_a.T


def norm(terms: Sequence[Term]) -> float:
    """Frobenius norm of the sum."""
    _, _, core, floor = _reduce(terms)
    size = float(core.norm())
    return size if size > floor else 0.0


def relative_error(terms: Sequence[Term], b: Tensor, a: Tensor) -> float:
    """Relative Frobenius error of ``b a`` against the exact sum (0 where both are zero)."""
    error, exact = norm([*terms, (b, a, -1.0)]), norm(terms)
    if error == 0:
        return 0.0
    return error / exact if exact else float("inf")


def _reduce(terms: Sequence[Term]) -> tuple[Tensor, Tensor, Tensor, float]:
    """Orthonormal bases of the stacked B and A, the core between them, and its rounding."""
    stacked_b = torch.cat([w * b.double() for b, _, w in terms], dim=1)
    stacked_a = torch.cat([a.double() for _, a, _ in terms], dim=0)
    q_b, r_b = torch.linalg.qr(stacked_b)
    q_a, r_a = torch.linalg.qr(stacked_a.T)
    return q_b, q_a, r_b @ r_a.T, ROUNDING * float(r_b.norm() * r_a.norm())
