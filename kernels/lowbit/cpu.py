"""lowbit on the CPU: torch."""

import torch
from torch import Tensor

from fedmore.kernels.lowbit.codebooks import BOOK, Book
from fedmore.kernels.lowbit.torch_fallback import (
    Coded,
    StraightThrough,
    checked,
    decode,
    latent,
    pack,
    statistics,
    table,
)

__all__ = ["BOOK", "Coded", "decode", "encode", "latent", "quantise"]


def quantise(weight: Tensor, bits: int, book: Book = BOOK) -> Tensor:
    """The weight in use, of the weight's shape and dtype; differentiable, straight through.

    float32, bfloat16 or float16, worked out in float32. Without spread the weight comes back.
    """
    mean, std = statistics(weight.detach())
    ends, levels = table(mean, std, bits, book)
    value = levels[_index(weight.detach(), ends)].to(weight.dtype)
    result: Tensor = StraightThrough.apply(weight, value, mean, std)  # type: ignore[no-untyped-call]
    return result


def encode(weight: Tensor, bits: int, book: Book = BOOK) -> Coded:
    """The stored form; `decode` gives what `quantise` gives. Raises `ValueError` for NaN or Inf."""
    mean, std = statistics(weight.detach())
    checked(mean, std)
    ends, _ = table(mean, std, bits, book)
    packed = pack(_index(weight.detach(), ends).to(torch.uint8), bits)
    return Coded(packed, mean, std, tuple(weight.shape), bits, book)


def _index(weight: Tensor, ends: Tensor) -> Tensor:
    """Which cell a number is in; of the border between two the upper."""
    return torch.bucketize(weight.float(), ends, right=True)
