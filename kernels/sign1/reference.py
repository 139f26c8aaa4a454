"""The specification of sign1: plain loops in float32, slow on purpose."""

from collections.abc import Sequence

import torch
from torch import Tensor


def encode(values_N: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Encode 1-D `values_N` to (bits uint8 [ceil(N/8)], scales bfloat16 [ceil(N/block)]).

    Raises `ValueError` for NaN, Inf or a mean beyond bfloat16.
    """
    values = values_N.float().tolist()
    scales = []
    for start in range(0, len(values), block):
        part = [abs(value) for value in values[start : start + block]]
        scales.append(sum_by_halves(part + [0.0] * (block - len(part))) / len(part))
    packed = bytearray((len(values) + 7) // 8)
    for i, value in enumerate(values):
        packed[i // 8] |= int(value >= 0) << (i % 8)
    bits = torch.tensor(list(packed), dtype=torch.uint8)
    means = torch.tensor(scales, dtype=torch.float32)
    rounded = means.to(torch.bfloat16)
    if not bool(torch.isfinite(means).all() & torch.isfinite(rounded).all()):
        raise ValueError("sign1 cannot encode NaN or Inf")
    return bits, rounded


def sum_by_halves(values: list[float]) -> float:
    """Sum in the order that the format fixes; a Python float is a float64."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        second = values[half:] + [0.0] * (len(values) % 2)
        values = [a + b for a, b in zip(values[:half], second, strict=True)]
    return values[0]


def decode(bits: Tensor, scales: Tensor, count: int, block: int) -> Tensor:
    """Decode `count` numbers, float32 [count]."""
    out = []
    for i in range(count):
        sign = 1.0 if (int(bits[i // 8]) >> (i % 8)) & 1 else -1.0
        out.append(sign * float(scales[i // block]))
    return torch.tensor(out, dtype=torch.float32)


def encode_with_residual(
    change_N: Tensor, residual_N: Tensor, block: int, *, gain: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode ``gain * p``, rounded to float32, with error feedback, ``p = change + residual``.

    Returns (bits, scales, new residual ``p - decoded``).
    """
    wanted = change_N.float() + residual_N.float()
    bits, scales = encode((gain * wanted).reshape(-1), block)
    sent = decode(bits, scales, wanted.numel(), block)
    return bits, scales, wanted - sent.view(wanted.shape)


def weighted_sum(
    encoded: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float], count: int, block: int
) -> Tensor:
    """``sum_k weights[k] * decode(encoded[k])``, float64 [count]."""
    total = torch.zeros(count, dtype=torch.float64)
    for (bits, scales), weight in zip(encoded, weights, strict=True):
        total += weight * decode(bits, scales, count, block).double()
    return total
