"""Changes of several owners as small matrices in a basis that all of them share.

With orthonormal bases Q_B and Q_A of all owners' factors every product is ``Q_B C_k Q_A^T``, and
distances between the cores C_k are distances between the products; no dense matrix is formed. (If
an owner changes a matrix by a full-size one, its coordinates are the weights themselves: the basis
is None, and a core is the dense change.) The
bases are the left singular vectors of the owners' B side by side, and of their A likewise. These
are the eigenvectors of ``sum_k B_k B_k^T``, so the owners' order, which their names decide, shows
in nothing but signs, and turning a coordinate's sign only turns that of its trimmed mean. (In the
bases of a QR, which follow the order, most coordinates were one owner's alone, and trimmed.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmore.kernels.lowrank_sum import cpu as delta
from fedmore.kernels.lowrank_sum.cpu import LowRankTerm, Term
from fedmore.strategies.expert_stage.changes import Change

Basis = tuple[Tensor, Tensor] | None  # (Q_B [m, R], Q_A [n, R]), float64; None: the weights
Bases = dict[str, Basis]
Cores = dict[str, Tensor]  # path -> C_k [R, R] or [m, n], float64


def cores_of(changes: Sequence[Change], *, fresh: bool = False) -> tuple[Bases, list[Cores]]:
    """The shared bases of all matrices, and every change's cores in them.

    With `fresh` a change that came late is smaller, as its owner's weight would be.
    """
    terms = [change.terms(change.fresh if fresh else 1.0) for change in changes]
    bases, cores = Bases(), [Cores() for _ in changes]
    for path, change in sorted(changes[0].after.items()):
        nothing = delta.nothing(delta.term(change, 1.0))
        bases[path], found = _basis([each.get(path, [nothing]) for each in terms])
        for each, core in zip(cores, found, strict=True):
            each[path] = core
    return bases, cores


def _basis(sums: Sequence[Sequence[Term]]) -> tuple[Basis, list[Tensor]]:
    """The basis of one matrix, and the core of every owner's sum."""
    parts = [delta.parted(each) for each in sums]
    if any(dense for _, dense in parts):
        return None, [delta.matrix(each) for each in sums]
    q_b, q_a, found = shared_basis([(*delta.stack(products), 1.0) for products, _ in parts])
    return (q_b, q_a), found


def shared_basis(products: Sequence[LowRankTerm]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Q_B [m, R], Q_A [n, R] and every C_k [R, R], float64, with ``s B_k A_k = Q_B C_k Q_A^T``."""
    ranks = [b.shape[1] for b, _, _ in products]
    q_b, r_b = singular(torch.cat([b.double() for b, _, _ in products], dim=1))
    q_a, r_a = singular(torch.cat([a.double().T for _, a, _ in products], dim=1))
    pairs = zip(torch.split(r_b, ranks, 1), torch.split(r_a, ranks, 1), products, strict=True)
    return q_b, q_a, [scale * left @ right.T for left, right, (_, _, scale) in pairs]


def singular(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors of a matrix, and the matrix in their basis."""
    q, r = torch.linalg.qr(stacked)
    u = torch.linalg.svd(r, full_matrices=False).U
    return q @ u, u.T @ r
