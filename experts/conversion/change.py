"""What a conversion makes: a low-rank change of the base, and how much of the model it keeps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.experts.factors import Change, Factors, highest_rank, num_parameters, seed_of, single
from fedmore.experts.spec import FFN_PARENTS, Shapes, in_ffn
from fedmore.kernels.determinism import one_thread
from fedmore.kernels.lowrank_sum import cpu as delta

OVERSAMPLED, POWER_STEPS = 16, 4
"""Directions beside those asked for, and power iterations, of the randomised SVD."""

EXACT_UP_TO = 512
"""The smaller side of a matrix up to which its SVD is computed in full."""


@dataclass(frozen=True)
class Converted:
    """A change of the base, scale folded in.

    Args:
        factors: B [out, R] and A [R, in] of every matrix that is changed, float32.
        error: ``|change - B A| / |change|`` in the Frobenius norm, over these matrices together.
        outside: the part of the squared norm of all changes of the model that lies outside of
            these matrices, and which no expert can hold.

    """

    factors: Factors
    error: float
    outside: float = 0.0

    @property
    def rank(self) -> int:
        """The largest rank of a matrix."""
        return highest_rank(self.factors)

    @property
    def params(self) -> int:
        """How many numbers the factors hold."""
        return num_parameters(self.factors)

    @property
    def is_ffn_alone(self) -> bool:
        """Whether only FFNs are changed, as an expert's are."""
        return all(map(in_ffn, self.factors))


@torch.no_grad()
def leading(change_OI: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """The best B [out, R] and A [R, in] of a dense change, balanced, and the squared norm left out.

    A matrix whose smaller side is above `EXACT_UP_TO` is split by a randomised SVD with power
    iterations (Halko et al., arXiv 0909.4061, algorithm 4.4), drawn by `seed`.
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, v = _svd(change_OI.float(), rank)
        root = s[:rank].sqrt()
        b, a = u[:, :rank] * root, (v[:, :rank] * root).T
        left = (change_OI.double() - b.double() @ a.double()).square().sum()
    return b.contiguous(), a.contiguous(), float(left)


def _svd(change_OI: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    if min(change_OI.shape) <= max(EXACT_UP_TO, rank + OVERSAMPLED):
        u, s, vh = torch.linalg.svd(change_OI, full_matrices=False)
        return u, s, vh.T
    return torch.svd_lowrank(change_OI, rank + OVERSAMPLED, POWER_STEPS)


def cut(factors: Factors, rank: int, nested: bool = False) -> tuple[Factors, float]:
    """The factors with at most `rank` directions a matrix, and the relative error of that.

    The directions are the leading singular ones, or with `nested` the first as they are.
    """
    kept: Factors = {}
    wrong = whole = 0.0
    with one_thread():
        for path, change in factors.items():
            kept[path] = _cut(path, change, rank, nested)
            if kept[path] is not change:
                terms = [delta.term(change, 1.0), delta.term(kept[path], -1.0)]
                wrong += delta.norm(terms) ** 2
            whole += delta.norm([delta.term(change, 1.0)]) ** 2
    return kept, (wrong / whole) ** 0.5 if whole else 0.0


def _cut(path: str, change: Change, rank: int, nested: bool) -> Change:
    """A change with at most `rank` directions; a full-size one becomes one of low rank."""
    if len(change) == 1:
        b, a, _ = leading(change[0], min(rank, *change[0].shape), seed_of(path))
        return b, a
    b, a = change
    if a.shape[0] <= rank:
        return change
    if nested:
        return single((b[:, :rank].contiguous(), a[:rank].contiguous()))
    return single(delta.truncate(b, a, rank))


def with_whole_ffns(factors: Factors, shapes: Shapes) -> Factors:
    """The factors, and zeros of rank 1 for the other matrices of an FFN that is changed in part.

    A mixture has an expert's change of all matrices of an FFN, or of none. The order is the base's.
    """
    parents = {path.rpartition(".")[0] for path in factors}
    ffns = {parent for parent in parents if parent.rpartition(".")[2] in FFN_PARENTS}
    return {
        path: factors.get(path, (torch.zeros(out, 1), torch.zeros(1, inner)))
        for path, (out, inner) in shapes.items()
        if path in factors or path.rpartition(".")[0] in ffns
    }
