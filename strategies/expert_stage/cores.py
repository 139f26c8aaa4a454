"""Changes of several owners as small matrices in a basis that all of them share.

With orthonormal bases Q_B and Q_A of all owners' factors every product is ``Q_B C_k Q_A^T``, and
distances between the cores C_k are distances between the products; no dense matrix is formed. The
bases are the left singular vectors of the owners' B side by side, and of their A likewise. These
are the eigenvectors of ``sum_k B_k B_k^T``, so the owners' order, which their names decide, shows
in nothing but signs, and turning a coordinate's sign only turns that of its trimmed mean. (In the
bases of a QR, which follow the order, most coordinates were one owner's alone, and trimmed.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmore.kernels.lowrank_sum.cpu import stack
from fedmore.strategies.expert_stage.changes import Change, Term

Bases = dict[str, tuple[Tensor, Tensor]]  # path -> (Q_B [m, R], Q_A [n, R]), float64
Cores = dict[str, Tensor]  # path -> C_k [R, R], float64


def cores_of(changes: Sequence[Change], *, fresh: bool = False) -> tuple[Bases, list[Cores]]:
    """The shared bases of all matrices, and every change's cores in them.

    With `fresh` a change that came late is smaller, as its owner's weight would be.
    """
    terms = [change.terms(change.fresh if fresh else 1.0) for change in changes]
    bases, cores = Bases(), [Cores() for _ in changes]
    for path, (b, a) in sorted(changes[0].after.items()):
        nothing: Term = (b[:, :0], a[:0], 1.0)
        products = [(*stack(each.get(path, [nothing])), 1.0) for each in terms]
        q_b, q_a, found = shared_basis(products)
        bases[path] = q_b, q_a
        for each, core in zip(cores, found, strict=True):
            each[path] = core
    return bases, cores


def shared_basis(products: Sequence[Term]) -> tuple[Tensor, Tensor, list[Tensor]]:
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
