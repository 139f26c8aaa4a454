"""Random tensors of a seed of their own."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def tensors_of(shapes: Iterable[Sequence[int]], seed: int = 0, size: float = 1.0) -> list[Tensor]:
    """Normal numbers in these shapes, `size` wide."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=g) * size for shape in shapes]


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A matrix of the global generator that keeps the scale of what it is applied to."""
    width = max(1, shape[-1])
    return (torch.randn(*shape) * float(width**-0.5)).to(dtype)
