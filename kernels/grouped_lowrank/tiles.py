"""A matrix product for thin matrices, by tiles of 4 rows, as a numba function.

A *tile* is 4 rows of at most 128 float32 (`WIDTH` apart), given by its address: it stays in the
first-level cache, and its row distance is a constant, so 8 accumulators and all addresses fit into
registers. BLAS libraries reach about half of a core's peak at inner sizes of 16; this reaches it.
A row's result depends neither on the other rows nor on their number.
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
    """The next multiple of 8: how long a row of a tall matrix is."""
    return -(-columns // 8) * 8


@njit
def multiply(a: int, a0: int, inner: int, b: int, b0: int, ldb: int, columns: int, c: int) -> None:
    """Tile `c` += tile `a` (from offset `a0`) times rows of `b`.

    `a` is [4, inner], `b` is [inner, columns] from offset `b0` on, its rows `ldb` apart; `columns`
    is a multiple of 8, at most 128.
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
    """How many strips of `WIDTH` columns there are; the last may be narrower."""
    return -(-columns // WIDTH)


class Matrix(NamedTuple):
    """A matrix of float32 in C order: its address, its row length."""

    address: int
    columns: int


@njit
def copy(source: int, at: int, count: int, target: int, to: int) -> None:
    """`count` numbers, a multiple of 8, from one place to another."""
    for i in range(0, count, 8):
        store(target, to + i, load(source, at + i))


@njit
def zero(target: int, count: int) -> None:
    """`count` zeros, a multiple of 8."""
    for i in range(0, count, 8):
        store(target, i, splat(ZERO))


@njit
def read(matrix: Matrix, row: int, column: int, width: int, tile: int, to: int) -> None:
    """A row of a tile from a matrix, the rest of its last vector zero."""
    at, whole = row * matrix.columns + column, width - width % 8
    copy(matrix.address, at, whole, tile, to)
    if whole < width:
        store(tile, to + whole, splat(ZERO))
        for i in range(whole, width):
            put(tile, to + i, get(matrix.address, at + i))


@njit
def write(tile: int, to: int, width: int, matrix: Matrix, row: int, column: int) -> None:
    """The same the other way round."""
    at, whole = row * matrix.columns + column, width - width % 8
    copy(tile, to, whole, matrix.address, at)
    for i in range(whole, width):
        put(matrix.address, at + i, get(tile, to + i))


@njit
def add_to(
    tile: int, to: int, width: int, weight: float, matrix: Matrix, row: int, column: int
) -> None:
    """A row of a matrix += weight * a row of a tile."""
    at, whole, factor = row * matrix.columns + column, width - width % 8, splat(weight)
    y = matrix.address
    for i in range(0, whole, 8):
        store(y, at + i, fma(factor, load(tile, to + i), load(y, at + i)))
    for i in range(whole, width):
        put(y, at + i, get(y, at + i) + weight * get(tile, to + i))
