"""sign1's loops, compiled by numba: whole blocks in one thread, with scratch memory only.

Importing this module imports numba, so `cpu` imports it at its first call.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from fedmore.kernels.jit import inlined, intrinsic, njit

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Halves = NDArray[np.uint16]  # the bits of bfloat16 numbers
Addresses = NDArray[np.int64]


@njit
def encode(
    values: Floats,
    residual: Floats,
    owed: Floats,
    bits: Bytes,
    scales: Halves,
    block: int,
    gain: np.float32,
) -> bool:
    """Encode ``gain (values + residual)``; return whether all numbers were finite.

    All means are tested, before rounding (which turns some NaN into -0) and after (which may give
    Inf).

    Args:
        values: the numbers, [n].
        residual: the old residual, [n]; empty for no error feedback.
        owed: memory for the new residual, [n]; may be `residual`.
        bits: memory for the signs; must be zeros unless `block` is a multiple of 8.
        scales: memory for the scales, [ceil(n / block)].
        block: numbers per scale.
        gain: factor of what is encoded, not of the residual.

    """
    wanted, sums = np.zeros((block + 7) // 8 * 8, np.float32), np.empty(block, np.float64)
    feedback, finite = residual.shape[0] > 0, True
    whole = np.empty(block, np.float32)  # `wanted` before the gain
    for b in range(scales.shape[0]):
        start, stop = b * block, min(b * block + block, values.shape[0])
        size = stop - start
        if feedback:
            for i in range(size):
                whole[i] = values[start + i] + residual[start + i]
                wanted[i] = gain * whole[i]
        else:
            for i in range(size):
                wanted[i] = values[start + i]
        for i in range(size, block):
            wanted[i] = 0
        mean = np.float32(sum_by_halves(wanted, sums, block) / size)
        scales[b] = round_to_bfloat16(mean)
        finite &= is_finite(mean) and (scales[b] & 0x7F80) != 0x7F80
        pack(wanted, bits, start, size)
        if feedback:
            scale = widen(scales[b])
            for i in range(size):
                owed[start + i] = whole[i] - (scale if wanted[i] >= 0 else -scale)
    return finite


@inlined
def sum_by_halves(wanted: Floats, sums: Doubles, block: int) -> float:
    """Sum magnitudes by halves: add the second half to the first until one number is left.

    Three halvings are done in one pass while the width allows it.
    """
    for i in range(block):
        sums[i] = abs(wanted[i])
    width = block
    while width % 8 == 0:
        width //= 8
        for i in range(width):
            even = (sums[i] + sums[i + 4 * width]) + (sums[i + 2 * width] + sums[i + 6 * width])
            odd = sums[i + width] + sums[i + 5 * width]
            sums[i] = even + (odd + (sums[i + 3 * width] + sums[i + 7 * width]))
    while width > 1:
        half = (width + 1) // 2
        for i in range(width - half):
            sums[i] += sums[half + i]
        width = half
    return float(sums[0])


@inlined
def is_finite(number: np.float32) -> bool:
    """Whether the number is neither NaN nor Inf, judged by its exponent."""
    return bool((np.float32(number).view(np.uint32) & np.uint32(0x7F800000)) != 0x7F800000)


@inlined
def round_to_bfloat16(number: np.float32) -> np.uint16:
    """Bits of the nearest bfloat16, ties to even; undefined for NaN."""
    raw = np.float32(number).view(np.uint32)
    odd = (raw >> np.uint32(16)) & np.uint32(1)
    return np.uint16((raw + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@inlined
def widen(raw: np.uint16) -> np.float32:
    """Convert a bfloat16's bits to float32."""
    return np.uint32(np.uint32(raw) << np.uint32(16)).view(np.float32)


@inlined
def pack(wanted: Floats, bits: Bytes, start: int, size: int) -> None:
    """Write the signs of `size` numbers to the stream from bit `start` on."""
    if start % 8:
        for i in range(size):
            bits[(start + i) // 8] |= (wanted[i] >= 0) << ((start + i) % 8)
    else:
        for j in range(size // 8):
            bits[start // 8 + j] = signs_of(wanted, 8 * j)
        if size % 8:
            bits[(start + size) // 8] = signs_of(wanted, size // 8 * 8) & ((1 << size % 8) - 1)


@njit
def weighted_sum(addresses: Addresses, coefs: Floats, out: Floats, block: int) -> None:
    """``out = sum_k coefs[b, k] * sign``; update k's bytes for `out` are at ``addresses[k]``.

    `block` and the size of `out` are multiples of 8; the last block may be short.
    """
    updates = addresses.shape[0]
    for b in range(coefs.shape[0]):
        start, stop = b * block, min(b * block + block, out.shape[0])
        for i in range(start, stop):
            out[i] = -0.0  # x + -0.0 is x for every x, while -0.0 + 0.0 would be 0.0
        wide = start + (stop - start) // 16 * 16
        for k in range(0, updates - 3, 4):  # four at once, so that the sum stays in registers
            at = (addresses[k], addresses[k + 1], addresses[k + 2], addresses[k + 3])
            values = (coefs[b, k], coefs[b, k + 1], coefs[b, k + 2], coefs[b, k + 3])
            for i in range(start, wide, 16):
                add_signed_16(out, i, at, values)
            for i in range(wide, stop, 8):
                add_signed_8(out, i, at, values)
        for k in range(updates // 4 * 4, updates):
            for i in range(start, stop, 8):
                add_signed_8(out, i, (addresses[k],), (coefs[b, k],))


def signed_adder(width: int) -> Callable[..., Any]:
    """Make a function ``f(out, i, addresses, coefs)`` that adds signed coefficients.

    To ``out[i : i + width]`` it adds every coefficient, in order, with the signs that are at
    ``address + i // 8``. It is written with vectors, since LLVM does not vectorise it by itself:
    each lane's bit selects between the coefficient and its negative.
    """

    def add(_context: Any, out: Any, _i: Any, addresses: Any, coefs: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            lanes, word = ir.VectorType(ir.FloatType(), width), ir.IntType(width)
            data = context.make_array(out)(context, builder, args[0]).data
            target = builder.bitcast(builder.gep(data, [args[1]]), lanes.as_pointer())
            offset = builder.lshr(args[1], ir.Constant(args[1].type, 3))
            total = builder.load(target, align=4)
            for k in range(addresses.count):
                place = builder.add(builder.extract_value(args[2], k), offset)
                signs = builder.load(builder.inttoptr(place, word.as_pointer()), align=1)
                signs = builder.bitcast(signs, ir.VectorType(ir.IntType(1), width))
                coef = splat(builder, builder.extract_value(args[3], k), lanes)
                total = builder.fadd(total, builder.select(signs, coef, builder.fneg(coef)))
            builder.store(total, target, align=4)
            return context.get_dummy_value()

        return types.void(out, types.intp, addresses, coefs), codegen

    return intrinsic(add)


add_signed_8, add_signed_16 = signed_adder(8), signed_adder(16)


@intrinsic
def signs_of(_context: Any, numbers: Any, _i: Any) -> Any:
    """Pack ``numbers[i : i + 8] >= 0`` into a byte, the first as bit 0, by one comparison."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        lanes = ir.VectorType(ir.FloatType(), 8)
        data = context.make_array(numbers)(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), lanes.as_pointer())
        values = builder.load(place, align=4)
        signs = builder.fcmp_ordered(">=", values, ir.Constant(lanes, [0.0] * 8))
        return builder.bitcast(signs, ir.IntType(8))

    return types.uint8(numbers, types.intp), codegen


def splat(builder: Any, scalar: Any, lanes: Any) -> Any:
    """Fill an LLVM vector with one number."""
    nothing, index = ir.Constant(lanes, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(nothing, scalar, ir.Constant(index, 0))
    zeros = ir.Constant(ir.VectorType(index, lanes.count), [0] * lanes.count)
    return builder.shuffle_vector(first, nothing, zeros)
