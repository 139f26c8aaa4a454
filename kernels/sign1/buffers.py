"""What every form of sign1 checks of its arguments."""

from collections.abc import Sequence

import torch
from torch import Tensor

Encoded = tuple[Tensor, Tensor]  # bits uint8 [ceil(N/8)], scales bfloat16 [ceil(N/block)]


def empty(values: Tensor, block: int) -> Encoded:
    """Memory for the code of `values`; raises `ValueError` for a block of nothing."""
    if block < 1:
        raise ValueError(f"sign1: blocks of {block} numbers")
    count, device = values.numel(), values.device
    bits = torch.empty((count + 7) // 8, dtype=torch.uint8, device=device)
    return bits, torch.empty(-(-count // block), dtype=torch.bfloat16, device=device)


def target(change: Tensor, residual: Tensor, out: Tensor | None) -> Tensor:
    """Where the new residual goes; raises `ValueError` unless the sizes are the same."""
    if change.numel() != residual.numel():
        raise ValueError(f"sign1: a residual of {residual.numel()} for {change.numel()} numbers")
    if out is None:
        return torch.empty(change.shape, dtype=torch.float32, device=change.device)
    return out


def flat(out: Tensor, count: int) -> Tensor:
    """`out` in one dimension; raises `ValueError` unless `count` numbers can be written to it."""
    if out.dtype != torch.float32 or not out.is_contiguous() or out.numel() != count:
        raise ValueError(f"sign1: out must be contiguous float32 of {count} numbers")
    return out.detach().view(-1)


def coefficients(
    encoded: Sequence[Encoded], weights: Sequence[float], count: int, block: int
) -> Tensor:
    """What update k adds to or takes from every number of a block, float32 [blocks, K].

    Raises `ValueError` for sizes that do not fit `count`, before anything is read.
    """
    sizes = ((count + 7) // 8, -(-count // block), torch.uint8)
    for bits, scales in encoded:
        if (bits.numel(), scales.numel(), bits.dtype) != sizes or bits.device != scales.device:
            raise ValueError(
                f"sign1: {bits.numel()} bytes, {scales.numel()} scales for {count} numbers"
            )
    if len(weights) != len(encoded):
        raise ValueError(f"sign1: {len(weights)} weights for {len(encoded)} updates")
    if not encoded:
        return torch.zeros(sizes[1], 0)
    scales_BK = torch.stack([scales.view(-1).float() for _, scales in encoded], dim=1)
    return scales_BK * torch.tensor(weights, dtype=torch.float32, device=scales_BK.device)
