"""Stores an expert in a mixture as float32, or as sign1, which is decoded whenever it is used.

sign1 has one bit per number and a scale for every 256 (`kernels/sign1`), a 26th of the bytes. The
factors of an SVD have few large numbers among small ones, which one scale does not fit. So they are
rotated first: ``B Q`` and ``Q^T A`` with a random orthogonal Q have the same product (incoherence,
as in QuIP, arXiv 2307.13304). Then each factor is fitted in turn to the code of the other. A
full-size matrix is coded as it is, with the least-squares scale of each block (BitDelta's start,
arXiv 2402.10193, but for 256 numbers instead of the matrix).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmore.experts.factors import NAMES, Change, Factors, Kept, KeptChange
from fedmore.experts.spec import ExpertStorage
from fedmore.kernels.grouped_lowrank.factors import Factor, SignTensor, decoded

TURNS = 3
"""Number of fits of each factor; each further one would gain less than 0.01 of cosine."""


def quantize(factors: Factors, keeping: ExpertStorage) -> Kept:
    """Convert factors to a storage; deterministic."""
    if keeping == ExpertStorage.fp32:
        return factors
    return {path: _coded(change) for path, change in factors.items()}


def _coded(change: Change) -> KeptChange:
    if len(change) == 1:
        return (SignTensor.of(change[0]),)
    return _signs(change[0].double(), change[1].double())


def _signs(b_OR: Tensor, a_RI: Tensor) -> tuple[SignTensor, SignTensor]:
    """Find signs whose product is close to ``b a``; each scale belongs to one rank."""
    turn_RR = _turn(len(a_RI)).to(a_RI.device)
    b_OR, a_RI = b_OR @ turn_RR, turn_RR.T @ a_RI
    a = SignTensor.of(a_RI)
    for _ in range(TURNS):
        used_RI = a.dense().double()
        fit_RR = a_RI @ used_RI.T @ torch.linalg.pinv(used_RI @ used_RI.T)
        b = SignTensor.of(b_OR @ fit_RR, by_columns=True)
        used_OR = b.dense().double()
        fit_RR = torch.linalg.pinv(used_OR.T @ used_OR) @ used_OR.T @ b_OR
        a = SignTensor.of(fit_RR @ a_RI)
    return b, a


def _turn(rank: int) -> Tensor:
    """A pseudo-random rotation [rank, rank], the same every time."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(rank, rank, generator=generator, dtype=torch.float64)
    turn: Tensor = torch.linalg.qr(drawn).Q
    return turn


def dequantize(kept: Kept) -> Factors:
    """Decode to float32 factors, as the mixture uses them."""
    return {path: decoded(change) for path, change in kept.items()}


def to_state(kept: Kept) -> dict[str, Tensor]:
    """Tensors for a safetensors file: `PATH.A`, or `PATH.A.bits`, `.scales` and `.shape`.

    The names are those of `factors.NAMES`.
    """
    out: dict[str, Tensor] = {}
    for path, change in kept.items():
        for letter, factor in zip(NAMES[len(change)], reversed(change), strict=True):
            name = f"{path}.{letter}"
            if isinstance(factor, SignTensor):
                out[f"{name}.bits"], out[f"{name}.scales"] = factor.bits, factor.scales
                out[f"{name}.shape"] = torch.tensor(factor.shape)
            else:
                out[name] = factor.float().contiguous()
    return out


def from_state(state: Mapping[str, Tensor]) -> Kept:
    """Invert `to_state`; raises `KeyError` or `ValueError` for any other state."""
    names = [key.removesuffix(".shape") for key in state]
    found: dict[str, KeptChange] = {}
    for name in names:
        path, _, letter = name.rpartition(".")
        if letter == "D":
            found[path] = (_factor(state, name),)
        elif letter == "A":
            found[path] = _factor(state, f"{path}.B"), _factor(state, name)
    return found


def _factor(state: Mapping[str, Tensor], name: str) -> Factor:
    if name in state:
        return state[name]
    rows, columns = map(int, state[f"{name}.shape"])
    parts = state[f"{name}.bits"], state[f"{name}.scales"]
    factor = SignTensor(*parts, (rows, columns), by_columns=name.endswith(".B"))
    factor.dense()  # raises if its parts do not fit together
    return factor
