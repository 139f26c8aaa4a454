"""REINFORCE over ordered selections without replacement (ReMix, arXiv 2603.10160).

Shape suffixes: A arms, K chosen, M selections of one text.
"""

import torch
from torch import Tensor


def sample_ordered(log_q_A: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """K distinct arms [..., K], drawn in order without replacement with probabilities q.

    The k largest of ``log q + Gumbel noise``, in descending order, are such a draw (Gumbel-top-k;
    Kool et al., arXiv 1903.06059).
    """
    uniform = torch.rand(log_q_A.shape, generator=generator, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    return (log_q_A.detach().double().cpu() + gumbel).topk(k, dim=-1).indices.to(log_q_A.device)


def log_probability(log_q_A: Tensor, chosen_K: Tensor) -> Tensor:
    """Log probability [...] of ordered selections without replacement.

    ``log Q(J) = sum_j log q_{i_j} - log(1 - sum_{j' < j} q_{i_j'})``
    The rest of 1 is computed as the sum over the remaining arms, so a q near 1 loses no digits.
    """
    left = torch.zeros_like(log_q_A)
    total = log_q_A.new_zeros(chosen_K.shape[:-1])
    for j in range(chosen_K.shape[-1]):
        arm = chosen_K[..., j : j + 1]
        picked = log_q_A.gather(-1, arm)[..., 0]
        total = total + picked - torch.logsumexp(log_q_A + left, dim=-1)
        left = left.scatter(-1, arm, -torch.inf)
    return total


def leave_one_out(losses_M: Tensor) -> Tensor:
    """The factor of each selection's ``grad log Q``: ``(L_m - mean L) / (M - 1)``, [..., M].

    It equals L_m minus the mean of the others, divided by M, and gives an unbiased gradient. Raises
    `ValueError` for a single selection, which has no others to compare with.
    """
    samples = losses_M.shape[-1]
    if samples < 2:
        raise ValueError("REINFORCE with a leave-one-out baseline needs 2 selections or more")
    return (losses_M - losses_M.mean(-1, keepdim=True)) / (samples - 1)


def surrogate(losses_M: Tensor, log_probability_M: Tensor) -> Tensor:
    """A scalar per text, [...], whose gradient estimates the gradient of the expected loss."""
    return (leave_one_out(losses_M).detach() * log_probability_M).sum(-1)


def entropy(log_q_A: Tensor) -> Tensor:
    """Entropy of a single draw in nats, [...]."""
    return -(log_q_A.exp() * log_q_A).sum(-1)


def effective_size(arms_A: Tensor) -> Tensor:
    """Effective sample size ``(|w|_1 / |w|_2)^2`` of weights, [...]: how many arms really work."""
    w = arms_A.double()
    return w.abs().sum(-1).square() / w.square().sum(-1).clamp_min(1e-30)
