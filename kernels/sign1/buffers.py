"""The checks of arguments that all forms of sign1 share."""

from collections.abc import Sequence

import torch
from torch import Tensor

Encoded = tuple[Tensor, Tensor]  # bits uint8 [ceil(N/8)], scales bfloat16 [ceil(N/block)]


def empty(values: Tensor, block: int) -> Encoded:
    """Allocate the code of `values`; raises `ValueError` unless `block` is positive."""
    if block < 1:
        raise ValueError(f"sign1: block is {block}, must be at least 1")
    count, device = values.numel(), values.device
    bits = torch.empty((count + 7) // 8, dtype=torch.uint8, device=device)
    return bits, torch.empty(-(-count // block), dtype=torch.bfloat16, device=device)


def target(change: Tensor, residual: Tensor, out: Tensor | None) -> Tensor:
    """Return the tensor for the new residual; raises `ValueError` unless the sizes are equal."""
    if change.numel() != residual.numel():
        raise ValueError(f"sign1: a residual of {residual.numel()} for {change.numel()} numbers")
    if out is None:
        return torch.empty(change.shape, dtype=torch.float32, device=change.device)
    return out


def flat(out: Tensor, count: int) -> Tensor:
    """View `out` as 1-D; raises `ValueError` unless it is contiguous float32 of `count` numbers."""
    if out.dtype != torch.float32 or not out.is_contiguous() or out.numel() != count:
        raise ValueError(f"sign1: out must be contiguous float32 of {count} numbers")
    return out.detach().view(-1)


def coefficients(
    encoded: Sequence[Encoded], weights: Sequence[float], count: int, block: int
) -> Tensor:
    """Weight times scale: what update k adds to or subtracts from each number, float32 [blocks, K].

    Raises `ValueError` if sizes do not fit `count`, before any number is read.
    """
    sizes = ((count + 7) // 8, -(-count // block), torch.uint8)
    for bits, scales in encoded:
        if (bits.numel(), scales.numel(), bits.dtype) != sizes or bits.device != scales.device:
            raise ValueError(
                f"sign1: {bits.numel()} bytes, {scales.numel()} scales do not fit {count} numbers"
            )
    if len(weights) != len(encoded):
        raise ValueError(f"sign1: {len(weights)} weights for {len(encoded)} updates")
    if not encoded:
        return torch.zeros(sizes[1], 0)
    scales_BK = torch.stack([scales.view(-1).float() for _, scales in encoded], dim=1)
    return scales_BK * torch.tensor(weights, dtype=torch.float32, device=scales_BK.device)
