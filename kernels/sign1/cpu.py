"""sign1 on the CPU: numba loops over chunks in torch's threads; equals `reference` bit for bit.

Tensors may have any shape, and be float32, bfloat16 or float16. Half precision is widened chunk by
chunk, in cache. Only the results have the tensors' size.
"""

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmore.kernels.jit import in_chunks
from fedmore.kernels.sign1.buffers import Encoded, coefficients, empty, flat, target

# Numbers per call of a loop: few enough for the cache, enough that calls cost little.
CHUNK = 1 << 18


def encode(values_N: Tensor, block: int) -> Encoded:
    """Encode N numbers; returns (bits uint8 [ceil(N/8)], scales bfloat16 [ceil(N/block)]).

    Raises `ValueError` for NaN or Inf, which would spoil the whole block, and for a block whose
    mean is beyond bfloat16.
    """
    nothing = torch.empty(0)
    return _encode(values_N, nothing, nothing, block)


def encode_with_residual(
    change_N: Tensor,
    residual_N: Tensor,
    block: int,
    *,
    gain: float = 1.0,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode ``gain * p`` with error feedback, ``p = change + residual``.

    Returns (bits, scales, new residual ``p - decoded``), see `encode`. The new residual is float32
    of the change's shape, or `out`, which may be `residual_N` itself: then only the bits and scales
    are allocated. Raises as `encode` does; `out` then holds partial results.
    """
    out = target(change_N, residual_N, out)
    owed = flat(out, change_N.numel())
    bits, scales = _encode(change_N, residual_N, owed, block, gain)
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
    """``sum_k weights[k] * decode(encoded[k])``, float32 [count], in one pass over the bits.

    Terms are added in order, in float32. Raises `ValueError` if sizes do not fit `count`.
    """
    coefs_BK = coefficients(encoded, weights, count, block)
    total = torch.empty(count) if out is None else out
    result, loops = flat(total, count), _loops()
    if not encoded:
        return total.zero_()
    whole = 0 if block % 8 else count // 8 * 8
    _add_bits(encoded, coefs_BK, result[whole:], whole, block)
    streams = [bits.contiguous() for bits, _ in encoded]
    places = torch.tensor([bits.data_ptr() for bits in streams], dtype=torch.int64).numpy()

    def work(start: int, stop: int) -> None:
        coefs = coefs_BK[start // block : -(-stop // block)].numpy()
        loops.weighted_sum(places + start // 8, coefs, result[start:stop].numpy(), block)

    in_chunks(work, whole, _chunk(block))
    return total


def _encode(
    values: Tensor, residual: Tensor, owed: Tensor, block: int, gain: float = 1.0
) -> Encoded:
    values, residual = values.detach().reshape(-1), residual.detach().reshape(-1)
    bits, scales = empty(values, block)
    if block % 8:  # a byte may belong to two blocks, and their bits are added with OR
        bits.zero_()
    raw_bits, raw_scales = bits.numpy(), scales.view(torch.uint16).numpy()
    loops, fine, factor = _loops(), [], np.float32(gain)

    def work(start: int, stop: int) -> None:
        parts = [_floats(part[start:stop]) for part in (values, residual, owed)]
        own = raw_bits[start // 8 : (stop + 7) // 8], raw_scales[start // block : -(-stop // block)]
        fine.append(loops.encode(*parts, *own, block, factor))

    in_chunks(work, values.numel(), _chunk(block))
    if not all(fine):
        raise ValueError("sign1 cannot encode NaN or Inf")
    return bits, scales


def _floats(part: Tensor) -> NDArray[np.float32]:
    """Convert to float32 by numpy: a torch operator would start torch's own threads here as well.

    Once there are more such threads than cores, OpenMP stops letting them spin. Small operators
    then take several times as long in the whole process, until it ends.
    """
    if part.dtype == torch.bfloat16:
        return (part.view(torch.uint16).numpy().astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # the encoder refuses infinity later
        return part.numpy().astype(np.float32, copy=False)


def _add_bits(
    encoded: Sequence[Encoded], coefs_BK: Tensor, out: Tensor, start: int, block: int
) -> None:
    """Sum the numbers from `start` on by torch: those that do not fill whole bytes."""
    places = torch.arange(8, dtype=torch.uint8)
    block_of = torch.arange(start, start + out.numel()) // block
    out.fill_(-0.0)
    for (bits, _), coef_B in zip(encoded, coefs_BK.unbind(1), strict=True):
        signs = ((bits[start // 8 :, None] >> places) & 1).view(-1)[: out.numel()]
        out += (signs.float() * 2 - 1) * coef_B[block_of]


def _chunk(block: int) -> int:
    """A chunk size near CHUNK that is a multiple of whole blocks and whole bytes."""
    unit = math.lcm(block, 8)
    return -(-CHUNK // unit) * unit


def _loops() -> ModuleType:
    """Import the loops late: they import numba, and a program that never encodes need not wait."""
    from fedmore.kernels.sign1 import loops

    return loops
