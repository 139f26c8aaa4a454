"""sign1 on an NVIDIA GPU; equals `reference` bit for bit.

A block size must be a power of two, at least 8. Tensors may have any shape, and be float32,
bfloat16 or float16. The GPU looks for NaN and Inf, so `encode` waits for it to finish. The
functions are the same as in `cpu`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from fedmore.kernels.jit import triton_jit
from fedmore.kernels.sign1.buffers import Encoded, coefficients, empty, flat, target

TILE = 4096  # numbers per program


@triton_jit
def _encode(
    values: Any,
    residual: Any,
    owed: Any,
    bits: Any,
    scales: Any,
    bad: Any,
    count: Any,
    gain: Any,
    BLOCK: tl.constexpr,
    HALVINGS: tl.constexpr,
    ROWS: tl.constexpr,
    FEEDBACK: tl.constexpr,
) -> None:
    b_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i_RB = b_R[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside_RB = i_RB < count
    p_RB = tl.load(values + i_RB, mask=inside_RB, other=0.0).to(tl.float32)
    whole_RB = p_RB
    if FEEDBACK:
        whole_RB += tl.load(residual + i_RB, mask=inside_RB, other=0.0).to(tl.float32)
        p_RB = whole_RB * gain
    # Each sum has two terms, which is the order of summation that the format fixes.
    sums = tl.abs(p_RB).to(tl.float64)
    for step in tl.static_range(HALVINGS):
        sums = tl.sum(tl.reshape(sums, (ROWS, 2, BLOCK >> (step + 1))), axis=1)
    size_R = tl.minimum(count - b_R * BLOCK, BLOCK)
    mean_R = (tl.reshape(sums, (ROWS,)) / tl.maximum(size_R, 1)).to(tl.float32)
    raw_R = mean_R.to(tl.uint32, bitcast=True)
    # Test before rounding: a GPU's NaN is 0x7FFFFFFF, which the carry would turn into -0.
    bad_R = (raw_R & 0x7F800000) == 0x7F800000
    raw_R = (raw_R + 0x7FFF + ((raw_R >> 16) & 1)) >> 16  # to the nearest bfloat16, ties to even
    tl.store(scales + b_R, raw_R.to(tl.uint16), mask=size_R > 0)
    bad_R |= (raw_R & 0x7F80) == 0x7F80
    tl.store(bad + b_R, bad_R.to(tl.uint8), mask=size_R > 0)
    positive_RB = p_RB >= 0
    bytes_R8 = tl.reshape((positive_RB & inside_RB).to(tl.int32), (ROWS, BLOCK // 8, 8))
    bytes_R8 = tl.sum(bytes_R8 << tl.arange(0, 8)[None, None, :], axis=2)
    j_R8 = b_R[:, None] * (BLOCK // 8) + tl.arange(0, BLOCK // 8)[None, :]
    tl.store(bits + j_R8, bytes_R8.to(tl.uint8), mask=j_R8 < (count + 7) // 8)
    if FEEDBACK:
        scale_R = (raw_R << 16).to(tl.float32, bitcast=True)[:, None]
        tl.store(owed + i_RB, whole_RB - tl.where(positive_RB, scale_R, -scale_R), mask=inside_RB)


@triton_jit
def _weighted_sum(
    addresses: Any, coefs: Any, out: Any, count: Any, updates: Any, BLOCK: Any, TILE: tl.constexpr
) -> None:
    i_T = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside_T = i_T < count
    total_T = tl.zeros((TILE,), tl.float32) * -1.0  # x + -0 is x for every x, also for -0
    for k in range(updates):
        stream = tl.load(addresses + k).to(tl.pointer_type(tl.uint8))
        byte_T = tl.load(stream + i_T // 8, mask=inside_T, other=0).to(tl.int32)
        coef_T = tl.load(coefs + (i_T // BLOCK) * updates + k, mask=inside_T, other=0.0)
        positive_T = ((byte_T >> (i_T % 8).to(tl.int32)) & 1) != 0
        total_T += tl.where(positive_T, coef_T, coef_T * -1.0)  # Triton's minus turns -0 into 0
    tl.store(out + i_T, total_T, mask=inside_T)


def encode(values_N: Tensor, block: int) -> Encoded:
    """Encode N numbers; returns (bits uint8 [ceil(N/8)], scales bfloat16 [ceil(N/block)]).

    Raises `ValueError` for NaN, Inf or a mean beyond bfloat16, and for other block sizes.
    """
    return _launch(values_N, None, None, block)


def encode_with_residual(
    change_N: Tensor,
    residual_N: Tensor,
    block: int,
    *,
    gain: float = 1.0,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode with error feedback in one pass; returns (bits, scales, new residual), see `cpu`."""
    out = target(change_N, residual_N, out)
    owed = flat(out, change_N.numel())
    bits, scales = _launch(change_N, residual_N, owed, block, gain)
    return bits, scales, out


def decode(bits: Tensor, scales: Tensor, count: int, block: int) -> Tensor:
    """Decode `count` numbers, float32 [count]."""
    return weighted_sum([(bits, scales)], [1.0], count, block)


def weighted_sum(
    encoded: Sequence[Encoded],
    weights: Sequence[float],
    count: int,
    block: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """``sum_k weights[k] * decode(encoded[k])``, float32 [count], in one pass over the bits."""
    coefs_BK = coefficients(encoded, weights, count, block)
    streams, device = [bits.contiguous() for bits, _ in encoded], coefs_BK.device
    total = torch.empty(count, device=device) if out is None else out
    flat(total, count)
    if not encoded:
        return total.zero_()
    places = torch.tensor([bits.data_ptr() for bits in streams], dtype=torch.int64, device=device)
    if count:
        grid = (-(-count // TILE),)
        updates = len(streams)
        _weighted_sum[grid](places, coefs_BK, total, count, updates, block, TILE=TILE)
    return total


def _launch(
    values: Tensor, residual: Tensor | None, owed: Tensor | None, block: int, gain: float = 1.0
) -> Encoded:
    if block < 8 or block & (block - 1):
        raise ValueError(f"sign1 on a GPU takes blocks of 8, 16, 32, …, not of {block}")
    values = values.detach().contiguous()
    bits, scales = empty(values, block)
    if not values.numel():
        return bits, scales
    bad = torch.empty(scales.numel(), dtype=torch.uint8, device=values.device)
    rows = max(1, TILE // block)
    _encode[(-(-scales.numel() // rows),)](
        values,
        values if residual is None else residual.detach().contiguous(),
        values if owed is None else owed,
        bits,
        scales.view(torch.uint16),
        bad,
        values.numel(),
        gain,
        BLOCK=block,
        HALVINGS=block.bit_length() - 1,
        ROWS=rows,
        FEEDBACK=residual is not None,
    )
    if bool(bad.any()):
        raise ValueError("sign1 cannot encode NaN or Inf")
    return bits, scales
