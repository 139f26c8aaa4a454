"""What the forms of lowbit share: statistics, the backward pass, the stored form. Plain torch."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmore.kernels.lowbit.codebooks import BOOK, Book, borders, codes, spread

SLICE = 1 << 20
"""Numbers that are decoded at a time."""

EPSILON = 1e-5


@dataclass(frozen=True)
class Coded:
    """A matrix in its stored form: packed codes uint8 [ceil(n bits / 8)], `mean` and `std`."""

    packed: Tensor
    mean: Tensor
    std: Tensor
    shape: tuple[int, ...]
    bits: int
    book: Book


def statistics(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float32; of less than two numbers the latter is 0."""
    w = weight.float()
    if w.numel() < 2:
        return w.sum(), w.new_zeros(())
    # Summed in float64 (std sums so by itself): the same on every CPU, however wide its vectors.
    return w.mean(dtype=torch.float64).float(), w.std()


def table(mean: Tensor, std: Tensor, bits: int, book: Book) -> tuple[Tensor, Tensor]:
    """Borders [2^bits - 1] and levels [2^bits] in units of the weight, float32."""
    scale = std + EPSILON
    ends = torch.tensor(borders(bits, book), device=mean.device) * scale + mean
    return ends, torch.tensor(codes(bits, book), device=mean.device) * std + mean


def gradient(grad: Tensor, weight: Tensor, value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """dL/dw of dL/dv, float32; the formula of the op."""
    g, w, n = grad.float(), weight.float(), weight.numel()
    flat = g.reshape(-1)
    total = flat.sum()
    with_value = flat @ value.reshape(-1).float() - mean * total  # sum g (v - m)
    with_weight = flat @ w.reshape(-1) - mean * total  # sum g (w - m)
    share, safe = std / (std + EPSILON), torch.where(std == 0, 1, std)
    slope = (with_value / safe - share / (std + EPSILON) * with_weight) / (max(n - 1, 1) * safe)
    exact = share * g + slope * w + ((1 - share) * total / max(n, 1) - slope * mean)
    chosen: Tensor = torch.where(std == 0, g, exact)
    return chosen


def pack(index: Tensor, bits: int) -> Tensor:
    """Codes (uint8) to bytes, the first in the lowest bits; spare bits are 0."""
    per, flat = 8 // bits, index.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % per)).view(-1, per)
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=index.device)
    return (padded << places).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    """The first `count` codes of the bytes, int64."""
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    index: Tensor = (packed[:, None] >> places) & (2**bits - 1)
    return index.view(-1)[:count].long()


def decode(coded: Coded) -> Tensor:
    """The weight in use, float32. Raises `ValueError` for bytes that do not fit the shape."""
    count = math.prod(coded.shape)
    if coded.packed.numel() != -(-count * coded.bits // 8):
        raise ValueError(
            f"bits: {coded.packed.numel()} bytes for {coded.shape} at {coded.bits} bits"
        )
    _, levels = table(coded.mean, coded.std, coded.bits, coded.book)
    values = torch.empty(count, dtype=levels.dtype, device=levels.device)
    for start in range(0, count, SLICE):  # codes are 64 times as large as the bits they come from
        stop = min(start + SLICE, count)
        packed = coded.packed[start * coded.bits // 8 : -(-stop * coded.bits // 8)]
        values[start:stop] = levels[unpack(packed, stop - start, coded.bits)]
    return values.view(coded.shape)


def latent(value: Tensor, bits: int, book: Book = BOOK) -> Tensor:
    """Numbers of which `quantise` makes about `value`, itself a weight in use: float32.

    For training that goes on without the numbers that `value` was made of. The codes are the same;
    the spread is to a few percent, exactly where one bit divides them into halves.
    """
    v = value.float()
    if v.numel() < 2:
        return v
    mean = v.mean()
    return (v - mean) / spread(bits, book) + mean


def checked(mean: Tensor, std: Tensor) -> None:
    """Raise `ValueError` for statistics of NaN or Inf, which no code can stand for."""
    if not bool(torch.isfinite(mean) & torch.isfinite(std)):
        raise ValueError("bits cannot encode NaN or Inf")


class StraightThrough(torch.autograd.Function):
    """The quantised value forward, the formula of the op backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """`value`, as a function of `weight`."""
        ctx.save_for_backward(weight, value, mean, std)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The weight's gradient in the weight's dtype."""
        weight, value, mean, std = ctx.saved_tensors
        return gradient(grads[0], weight, value, mean, std).to(weight.dtype), None, None, None
