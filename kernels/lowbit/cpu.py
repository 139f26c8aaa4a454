"""lowbit on the CPU, in plain torch."""

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
    """Return the weight in use, in the weight's shape and dtype; differentiable, straight through.

    It takes float32, bfloat16 or float16 and computes in float32. A weight whose numbers are all
    equal is returned unchanged.
    """
    mean, std = statistics(weight.detach())
    ends, levels = table(mean, std, bits, book)
    value = levels[_index(weight.detach(), ends)].to(weight.dtype)
    result: Tensor = StraightThrough.apply(weight, value, mean, std)  # type: ignore[no-untyped-call]
    return result


def encode(weight: Tensor, bits: int, book: Book = BOOK) -> Coded:
    """Return the stored form, which decodes to the result of `quantise`.

    Raises `ValueError` for NaN or Inf.
    """
    mean, std = statistics(weight.detach())
    checked(mean, std)
    ends, _ = table(mean, std, bits, book)
    packed = pack(_index(weight.detach(), ends).to(torch.uint8), bits)
    return Coded(packed, mean, std, tuple(weight.shape), bits, book)


def _index(weight: Tensor, ends: Tensor) -> Tensor:
    """Index of the cell of every number; a number on a border belongs to the upper cell."""
    return torch.bucketize(weight.float(), ends, right=True)
