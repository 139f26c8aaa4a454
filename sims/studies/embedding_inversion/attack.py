"""An attack that names the tokens behind a domain embedding with the help of other text.

The embedding is ``x E / N`` for counts x [V] of N tokens, plus noise of a known size. The attacker
knows E, N, the noise and each token's frequency in other text, which serves as a prior. There are
two estimates of x:

linear: the best linear estimate for counts with Poisson variance (Gauss-Markov), over all tokens.
sparse: counts of at least 0 that give the embedding, few of them of what the prior calls rare
    (non-negative least squares); for the exact embedding of a short text.

Shape suffixes: V tokens of the vocabulary, D width, C candidates.
"""

import numpy as np
import torch
from torch import Tensor

SMALLEST = 0.02
"""Count for a token that is absent from the other text."""

CANDIDATES = 3000
"""Number of likeliest tokens that the sparse estimate considers."""

PENALTY = 1e-3
"""Weight of the prior in the sparse estimate, for rows of norm 1; it decides between exact fits."""

FEW = 1000
"""Longest text, in tokens, for the sparse estimate; a longer one has too many counts to find."""


def expected(prior_V: Tensor, total: float) -> Tensor:
    """Expected counts [V] in a text of `total` tokens, from the counts in other text."""
    smoothed_V = prior_V + SMALLEST
    return total * smoothed_V / smoothed_V.sum()


def invert(mean_D: Tensor, total: float, prior_V: Tensor, rows_VD: Tensor, noise: float) -> Tensor:
    """Estimated counts [V], float64.

    Args:
        mean_D: the embedding.
        total: tokens that it is the mean of.
        prior_V: counts in other text.
        rows_VD: the base's embedding matrix.
        noise: standard deviation of each number of the embedding; 0 for an exact one.

    """
    size = float(rows_VD.norm(dim=1).square().mean().sqrt())
    rows_VD, sum_D = rows_VD.double() / size, mean_D.double() * total / size
    expected_V = expected(prior_V, total)
    if not noise and total <= FEW:
        return _sparse(sum_D, expected_V, rows_VD)
    return _linear(sum_D, expected_V, rows_VD, noise * total / size)


def _linear(sum_D: Tensor, expected_V: Tensor, rows_VD: Tensor, noise: float) -> Tensor:
    weighted_VD = expected_V[:, None] * rows_VD
    covariance_DD = weighted_VD.T @ rows_VD
    covariance_DD.diagonal().add_(noise**2 + 1e-9)
    surprise_D = sum_D - weighted_VD.sum(0)
    solved_D = torch.linalg.solve(covariance_DD, surprise_D)
    estimate_V: Tensor = expected_V + weighted_VD @ solved_D
    return estimate_V.clamp_min(0)


def _sparse(sum_D: Tensor, expected_V: Tensor, rows_VD: Tensor) -> Tensor:
    from scipy.optimize import nnls

    count = min(CANDIDATES, len(expected_V))
    chosen_C = expected_V.topk(count).indices
    weight_C = -PENALTY * (expected_V[chosen_C] / expected_V.sum()).log()
    system = torch.cat([rows_VD[chosen_C].T, weight_C[None]]).numpy()
    found, _ = nnls(system, np.append(sum_D.numpy(), 0.0), maxiter=50 * count)
    estimate_V = torch.zeros_like(expected_V)
    estimate_V[chosen_C] = torch.from_numpy(found)
    return estimate_V


def whole(estimate_V: Tensor, total: int) -> Tensor:
    """Round to integers that add up to `total`: down, but up for the largest remainders."""
    scaled_V = estimate_V * (total / estimate_V.sum().clamp_min(1e-30))
    counts_V = scaled_V.floor()
    left = total - int(counts_V.sum())
    counts_V[(scaled_V - counts_V).topk(left).indices] += 1
    return counts_V


def share_named(estimate_V: Tensor, truth_V: Tensor) -> float:
    """Share of the text's tokens that the rounded counts name correctly, ignoring order."""
    total = int(truth_V.sum())
    return float(torch.minimum(whole(estimate_V, total), truth_V).sum()) / total


def rare_named(estimate_V: Tensor, prior_V: Tensor, truth_V: Tensor, count: int) -> float:
    """Share of the first `count` named rare tokens that are in the text.

    A token is rare if the prior expects it less than once. Those with the largest estimates are
    named.
    """
    rare_V = expected(prior_V, float(truth_V.sum())) < 1
    named = torch.where(rare_V, estimate_V, -torch.inf).topk(count).indices
    return float((truth_V[named] > 0).double().mean())
