"""sign1 on whole tensors with torch; equals `reference` bit for bit."""

import torch
from torch import Tensor
from torch.nn.functional import pad

_WEIGHTS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def encode(values_N: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Encode 1-D float `values_N`; returns (bits uint8 [ceil(N/8)], scales bfloat16 [ceil(N/b)]).

    Raises `ValueError` for a number that is not finite, which would poison its whole block, and for
    a block whose mean is beyond bfloat16.
    """
    values = values_N.detach().float()
    scales = block_means(values.abs(), block)
    if not bool(torch.isfinite(values).all() and torch.isfinite(scales).all()):
        raise ValueError("sign1 cannot encode NaN or Inf")
    return pack_signs(values >= 0), scales


def decode(bits: Tensor, scales: Tensor, count: int, block: int) -> Tensor:
    """The `count` numbers that `bits` and `scales` stand for, float32 [count]."""
    if bits.numel() != (count + 7) // 8 or scales.numel() != -(-count // block):
        raise ValueError(
            f"sign1: {bits.numel()} bytes, {scales.numel()} scales for {count} numbers"
        )
    signs = unpack_signs(bits, count).float() * 2 - 1
    return signs * scales.float().repeat_interleave(block)[:count]


def encode_with_residual(
    change_N: Tensor, residual_N: Tensor, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Error feedback: encode ``p = change + residual``; returns (bits, scales, ``p - decoded``)."""
    wanted = change_N.detach().float() + residual_N.float()
    bits, scales = encode(wanted, block)
    return bits, scales, wanted - decode(bits, scales, wanted.numel(), block)


def pack_signs(positive_N: Tensor) -> Tensor:
    """Booleans to bytes, least significant bit first."""
    padded = pad(positive_N.to(torch.uint8), (0, -positive_N.numel() % 8))
    return (padded.view(-1, 8) * _WEIGHTS).sum(1, dtype=torch.uint8)


def unpack_signs(bits: Tensor, count: int) -> Tensor:
    """Bytes to `count` booleans."""
    return ((bits[:, None] & _WEIGHTS) != 0).view(-1)[:count]


def block_means(magnitudes_N: Tensor, block: int) -> Tensor:
    """Mean of every block, bfloat16; summed in float64 by halves, as the format says."""
    count = magnitudes_N.numel()
    sums = pad(magnitudes_N.double(), (0, -count % block)).view(-1, block)
    while sums.shape[1] > 1:
        half = (sums.shape[1] + 1) // 2
        sums = sums[:, :half] + pad(sums[:, half:], (0, sums.shape[1] % 2))
    sizes = torch.full_like(sums, block)
    if count % block:
        sizes[-1] = count % block
    return (sums / sizes).view(-1).float().to(torch.bfloat16)
