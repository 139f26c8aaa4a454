"""The start of a round that begins from the aggregate: both ends derive the same factors from it.

An owner of rank r trains the aggregate's leading r directions, and the rest of it stays frozen. The
factors are in a canonical form that depends on the product ``B A`` alone, not on the factors in
which the coordinator happens to send it: its singular directions in order of size, each with the
sign that makes the largest number of u positive, balanced between B and A. So a coordinator can
choose the aggregate but not how a start is split. A direction's row in A has at least the length of
a fresh one (`FLOOR`), however small its singular value: AdamW would otherwise stay where its steps
are in proportion to the gradient, which makes an update readable. If the aggregate has fewer than r
directions, the rest are the owner's fresh ones, with B zero.

An owner of full size trains all of the aggregate, as one matrix. The leading directions of an
aggregate of full size are found by a randomised SVD in float64 with a fixed sketch (Halko et al.,
arXiv 0909.4061, algorithm 4.4).
"""

import torch
from torch import Tensor

from fedmore.experts.factors import Change, Factors, LowRank, zeros
from fedmore.experts.spec import Scale, scale_at
from fedmore.kernels.determinism import one_thread
from fedmore.kernels.grouped_lowrank.factors import matrix_of

FLOOR = 3**-0.5
"""Length of a row of a fresh A: uniform in ``+- 1 / sqrt(in)``."""

OVERSAMPLED, POWER_STEPS = 16, 4
"""Directions beside those asked for, and power iterations, of the randomised SVD."""

LEAST = 1e-6
"""Directions below this part of the largest one are rounding and do not count."""


def start_of(aggregate: Factors, fresh: Factors, scale: Scale) -> Factors:
    """The factors (B, A) from which an owner of this scale begins, float32.

    `fresh` are its first ones, which give the ranks. ``scale * B A`` is the leading part of
    `aggregate`, which may be of any rank, 0 too.
    """
    with one_thread():
        return {
            path: _begun(aggregate[path], change, scale_at(scale, path))
            if path in aggregate
            else change
            for path, change in fresh.items()
        }


def _begun(aggregate: Change, fresh: Change, scale: float) -> Change:
    if len(fresh) == 1:
        return ((matrix_of(aggregate).double() / scale).float(),)
    pair = aggregate if len(aggregate) == 2 else _leading(aggregate[0], fresh[1].shape[0])
    return _start(*pair, *fresh, scale)


def _leading(d_OI: Tensor, rank: int) -> LowRank:
    """A product of the leading `rank` directions of a matrix and a few more, float64."""
    d_OI, width = d_OI.double(), d_OI.shape[1]
    if min(d_OI.shape) <= rank + OVERSAMPLED:
        return d_OI, torch.eye(width, dtype=torch.float64)
    drawn = torch.Generator().manual_seed(0)
    sketch = torch.randn(width, rank + OVERSAMPLED, generator=drawn, dtype=torch.float64)
    q_OK = torch.linalg.qr(d_OI @ sketch).Q
    for _ in range(POWER_STEPS):
        q_OK = torch.linalg.qr(d_OI @ torch.linalg.qr(d_OI.T @ q_OK).Q).Q
    return q_OK, q_OK.T @ d_OI


def _start(
    b_OD: Tensor, a_DI: Tensor, b_OR: Tensor, a_RI: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    q_b, r_b = torch.linalg.qr(b_OD.double())
    q_a, r_a = torch.linalg.qr(a_DI.double().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    count = min(int((s > LEAST * s[:1]).sum()), a_RI.shape[0])
    u_OK, v_KI, s_K = (q_b @ u)[:, :count], (vh @ q_a.T)[:count], s[:count] / scale
    largest = u_OK.abs().argmax(0, keepdim=True) if count else torch.zeros(1, 0, dtype=torch.long)
    sign_K = u_OK.gather(0, largest).sign()[0]
    size_K = s_K.sqrt().clamp_min(FLOOR)
    b, a = b_OR.clone(), a_RI.clone()
    b[:, :count] = (u_OK * (sign_K * s_K / size_K)).float()
    a[:count] = ((sign_K * size_K)[:, None] * v_KI).float()
    return b, a


def rotated(owed: Factors, held: Factors, start: Factors) -> Factors:
    """What is owed, in coordinates of `held`, turned into those of `start`.

    By the rotation that brings `held` nearest to `start` (orthogonal Procrustes, Schönemann 1966);
    between different ranks a part of one.
    """
    nothing = zeros(start)
    with one_thread():
        return {
            path: _turned(owed[path], held[path], change) if path in held else nothing[path]
            for path, change in start.items()
        }


def _turned(owed: Change, held: Change, start: Change) -> Change:
    if len(owed) == 2 and len(held) == 2 and len(start) == 2:
        return _rotated(*owed, *held, *start)
    # The coordinates of a full-size change are the weights, which do not turn.
    if len(owed) == 1 and len(start) == 1:
        return owed
    raise ValueError("an owner's change is of low rank or of full size, and stays so")


def _rotated(
    owed_b: Tensor, owed_a: Tensor, b_OR: Tensor, a_RI: Tensor, b_OS: Tensor, a_SI: Tensor
) -> tuple[Tensor, Tensor]:
    near = b_OR.double().T @ b_OS.double() + a_RI.double() @ a_SI.double().T
    u, _, vh = torch.linalg.svd(near, full_matrices=False)
    turn_RS = u @ vh
    return (owed_b.double() @ turn_RS).float(), (turn_RS.T @ owed_a.double()).float()
