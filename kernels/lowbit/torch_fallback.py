"""The parts that all forms of lowbit share, in plain torch: statistics, gradient, stored form."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmore.kernels.lowbit.codebooks import BOOK, Book, borders, codes, spread

SLICE = 1 << 20
"""Number of codes that are decoded at a time."""

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
    """Mean and standard deviation, float32 scalars; the latter is 0 for fewer than two numbers."""
    w = weight.float()
    if w.numel() < 2:
        return w.sum(), w.new_zeros(())
    # The mean is summed in float64, as std does by itself: so it is the same on every CPU, however
    # wide its vectors.
    return w.mean(dtype=torch.float64).float(), w.std()


def table(mean: Tensor, std: Tensor, bits: int, book: Book) -> tuple[Tensor, Tensor]:
    """Borders [2^bits - 1] and levels [2^bits] in units of the weight, float32."""
    scale = std + EPSILON
    ends = torch.tensor(borders(bits, book), device=mean.device) * scale + mean
    return ends, torch.tensor(codes(bits, book), device=mean.device) * std + mean


def gradient(grad: Tensor, weight: Tensor, value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """dL/dw from `grad`, which is dL/dv; float32, by the formula in the package's docstring."""
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
    """Pack uint8 codes into bytes, the first code in the lowest bits; spare bits are 0."""
    per, flat = 8 // bits, index.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % per)).view(-1, per)
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=index.device)
    return (padded << places).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    """Return the first `count` codes of the bytes, int64."""
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    index: Tensor = (packed[:, None] >> places) & (2**bits - 1)
    return index.view(-1)[:count].long()


def decode(coded: Coded) -> Tensor:
    """Return the weight in use, float32; raises `ValueError` if the bytes do not fit the shape."""
    count = math.prod(coded.shape)
    if coded.packed.numel() != -(-count * coded.bits // 8):
        raise ValueError(
            f"lowbit: {coded.packed.numel()} bytes for {coded.shape} at {coded.bits} bits"
        )
    _, levels = table(coded.mean, coded.std, coded.bits, coded.book)
    values = torch.empty(count, dtype=levels.dtype, device=levels.device)
    for start in range(0, count, SLICE):  # in slices: an int64 code takes up to 64 times its bits
        stop = min(start + SLICE, count)
        packed = coded.packed[start * coded.bits // 8 : -(-stop * coded.bits // 8)]
        values[start:stop] = levels[unpack(packed, stop - start, coded.bits)]
    return values.view(coded.shape)


def latent(value: Tensor, bits: int, book: Book = BOOK) -> Tensor:
    """Return float32 numbers that `quantise` maps to about `value`, which is a weight in use.

    Training that lost the latent numbers of `value` continues from these. The codes are the same.
    The standard deviation agrees within a few per cent, and exactly if one bit splits the numbers
    into halves.
    """
    v = value.float()
    if v.numel() < 2:
        return v
    mean = v.mean()
    return (v - mean) / spread(bits, book) + mean


def checked(mean: Tensor, std: Tensor) -> None:
    """Raise `ValueError` if the statistics are NaN or Inf, which no code can represent."""
    if not bool(torch.isfinite(mean) & torch.isfinite(std)):
        raise ValueError("lowbit cannot encode NaN or Inf")


class StraightThrough(torch.autograd.Function):
    """Returns the quantised value forward, and applies the formula of the op backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return `value` as a function of `weight`."""
        ctx.save_for_backward(weight, value, mean, std)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the weight's gradient in the weight's dtype."""
        weight, value, mean, std = ctx.saved_tensors
        return gradient(grads[0], weight, value, mean, std).to(weight.dtype), None, None, None
