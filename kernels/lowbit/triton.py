"""lowbit on an NVIDIA GPU: torch computes the statistics, one Triton pass the values or codes."""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from fedmore.kernels.jit import triton_jit
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

TILE = 1024


@triton_jit
def _cells(
    weight: Any,
    ends: Any,
    levels: Any,
    out: Any,
    count: Any,
    BORDERS: tl.constexpr,
    VALUES: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    i_T = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside_T = i_T < count
    w_T = tl.load(weight + i_T, mask=inside_T, other=0.0).to(tl.float32)
    cell_T = tl.zeros((TILE,), tl.int32)
    for j in tl.static_range(BORDERS):
        cell_T += (w_T >= tl.load(ends + j)).to(tl.int32)
    if VALUES:
        tl.store(out + i_T, tl.load(levels + cell_T), mask=inside_T)
    else:
        tl.store(out + i_T, cell_T.to(tl.uint8), mask=inside_T)


def quantise(weight: Tensor, bits: int, book: Book = BOOK) -> Tensor:
    """Return the weight in use, in the weight's shape and dtype; see `cpu.quantise`."""
    mean, std = statistics(weight.detach())
    value = _launch(weight, mean, std, bits, book, torch.float32).to(weight.dtype)
    result: Tensor = StraightThrough.apply(weight, value, mean, std)  # type: ignore[no-untyped-call]
    return result


def encode(weight: Tensor, bits: int, book: Book = BOOK) -> Coded:
    """Return the stored form; raises `ValueError` for NaN or Inf."""
    mean, std = statistics(weight.detach())
    checked(mean, std)
    index = _launch(weight, mean, std, bits, book, torch.uint8)
    return Coded(pack(index, bits), mean, std, tuple(weight.shape), bits, book)


def _launch(
    weight: Tensor, mean: Tensor, std: Tensor, bits: int, book: Book, dtype: torch.dtype
) -> Tensor:
    """Compute values (float32) or codes (uint8), depending on `dtype`."""
    ends, levels = table(mean, std, bits, book)
    w = weight.detach().contiguous()
    out = torch.empty(w.shape, dtype=dtype, device=w.device)
    if w.numel():
        grid = (-(-w.numel() // TILE),)
        values = dtype == torch.float32
        _cells[grid](w, ends, levels, out, w.numel(), BORDERS=2**bits - 1, VALUES=values, TILE=TILE)
    return out
