"""A matrix product for thin matrices, by tiles of 4 rows, as a numba function.

A *tile* is 4 rows of at most 128 float32, `WIDTH` apart, given by its address. It stays in the
first-level cache. Its row distance is a constant, so 8 accumulators and all addresses fit into
registers. At inner sizes of 16, BLAS libraries reach about half of a core's peak, and this reaches
all of it. A row's result depends neither on the other rows nor on their number.
"""

from typing import NamedTuple

import numpy as np

from fedmore.kernels.grouped_lowrank.simd import fma, get, load, put, splat, store
from fedmore.kernels.jit import njit

ROWS = 4
WIDTH = 128
TILE = ROWS * WIDTH
BYTES = 4 * TILE
ZERO = np.float32(0)


def padded(columns: int) -> int:
    """Round up to a multiple of 8, the row length of a tall matrix."""
    return -(-columns // 8) * 8


@njit
def multiply(a: int, a0: int, inner: int, b: int, b0: int, ldb: int, columns: int, c: int) -> None:
    """Tile `c` += tile `a` times a block of `b`.

    Args:
        a: address of a tile [4, inner].
        a0: offset of its first column.
        inner: the summed dimension, at most 128.
        b: address of a matrix [inner, columns].
        b0: offset of its first number.
        ldb: distance of its rows, in numbers.
        columns: a multiple of 8, at most 128.
        c: address of the resulting tile [4, columns].

    """
    n = 0
    while n + 16 <= columns:
        _sixteen(a, a0, inner, b, b0 + n, ldb, c, n)
        n += 16
    if n < columns:
        _eight(a, a0, inner, b, b0 + n, ldb, c, n)


@njit
def _sixteen(a: int, a0: int, inner: int, b: int, q: int, ldb: int, c: int, p: int) -> None:
    """Sixteen columns: 4 x 2 accumulators, which hide the latency of a fused multiply-add."""
    c00, c01 = load(c, p), load(c, p + 8)
    c10, c11 = load(c, p + WIDTH), load(c, p + WIDTH + 8)
    c20, c21 = load(c, p + 2 * WIDTH), load(c, p + 2 * WIDTH + 8)
    c30, c31 = load(c, p + 3 * WIDTH), load(c, p + 3 * WIDTH + 8)
    for k in range(a0, a0 + inner):
        b0, b1 = load(b, q), load(b, q + 8)
        q += ldb
        x = splat(get(a, k))
        c00, c01 = fma(x, b0, c00), fma(x, b1, c01)
        x = splat(get(a, k + WIDTH))
        c10, c11 = fma(x, b0, c10), fma(x, b1, c11)
        x = splat(get(a, k + 2 * WIDTH))
        c20, c21 = fma(x, b0, c20), fma(x, b1, c21)
        x = splat(get(a, k + 3 * WIDTH))
        c30, c31 = fma(x, b0, c30), fma(x, b1, c31)
    store(c, p, c00)
    store(c, p + 8, c01)
    store(c, p + WIDTH, c10)
    store(c, p + WIDTH + 8, c11)
    store(c, p + 2 * WIDTH, c20)
    store(c, p + 2 * WIDTH + 8, c21)
    store(c, p + 3 * WIDTH, c30)
    store(c, p + 3 * WIDTH + 8, c31)


@njit
def _eight(a: int, a0: int, inner: int, b: int, q: int, ldb: int, c: int, p: int) -> None:
    c0, c1 = load(c, p), load(c, p + WIDTH)
    c2, c3 = load(c, p + 2 * WIDTH), load(c, p + 3 * WIDTH)
    for k in range(a0, a0 + inner):
        b0 = load(b, q)
        q += ldb
        c0, c1 = fma(splat(get(a, k)), b0, c0), fma(splat(get(a, k + WIDTH)), b0, c1)
        c2 = fma(splat(get(a, k + 2 * WIDTH)), b0, c2)
        c3 = fma(splat(get(a, k + 3 * WIDTH)), b0, c3)
    store(c, p, c0)
    store(c, p + WIDTH, c1)
    store(c, p + 2 * WIDTH, c2)
    store(c, p + 3 * WIDTH, c3)


def strips(columns: int) -> int:
    """Number of strips of `WIDTH` columns; the last may be narrower."""
    return -(-columns // WIDTH)


class Matrix(NamedTuple):
    """A float32 matrix in C order: its address and its row length."""

    address: int
    columns: int


@njit
def copy(source: int, at: int, count: int, target: int, to: int) -> None:
    """Copy `count` numbers, a multiple of 8, from offset `at` to offset `to`."""
    for i in range(0, count, 8):
        store(target, to + i, load(source, at + i))


@njit
def zero(target: int, count: int) -> None:
    """Write `count` zeros, a multiple of 8."""
    for i in range(0, count, 8):
        store(target, i, splat(ZERO))


@njit
def read(matrix: Matrix, row: int, column: int, width: int, tile: int, to: int) -> None:
    """Read a row of a tile from a matrix, and zero the rest of its last vector."""
    at, whole = row * matrix.columns + column, width - width % 8
    copy(matrix.address, at, whole, tile, to)
    if whole < width:
        store(tile, to + whole, splat(ZERO))
        for i in range(whole, width):
            put(tile, to + i, get(matrix.address, at + i))


@njit
def write(tile: int, to: int, width: int, matrix: Matrix, row: int, column: int) -> None:
    """Write `width` numbers of a tile's row to a matrix."""
    at, whole = row * matrix.columns + column, width - width % 8
    copy(tile, to, whole, matrix.address, at)
    for i in range(whole, width):
        put(matrix.address, at + i, get(tile, to + i))


@njit
def add_to(
    tile: int, to: int, width: int, weight: float, matrix: Matrix, row: int, column: int
) -> None:
    """Add `weight` times a tile's row to a matrix's row."""
    at, whole, factor = row * matrix.columns + column, width - width % 8, splat(weight)
    y = matrix.address
    for i in range(0, whole, 8):
        store(y, at + i, fma(factor, load(tile, to + i), load(y, at + i)))
    for i in range(whole, width):
        put(y, at + i, get(y, at + i) + weight * get(tile, to + i))
