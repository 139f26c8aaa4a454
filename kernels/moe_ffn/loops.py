"""numba loops of moe_ffn: for a strip of 128 hidden columns, all experts over a chunk of tokens.

Nothing of size tokens x experts x H exists: an expert's hidden numbers live in a tile, which takes
its low-rank terms, goes through the activation, and is added to the token's sum and to its row of
the down factor at once. The order per token is fixed, as in `lora_mix.loops`.
"""

from typing import Any, NamedTuple

import numpy as np

from fedmore.kernels.grouped_lowrank.loops import (
    Matrices,
    Route,
    Rows,
    clear,
    gather,
    pad,
    place,
    since,
    spread,
)
from fedmore.kernels.grouped_lowrank.simd import get, get_int, put
from fedmore.kernels.grouped_lowrank.tiles import BYTES, ROWS, WIDTH, Matrix, add_to, read, write
from fedmore.kernels.jit import njit
from fedmore.kernels.moe_ffn.activation import swiglu

ONE: Any = np.float32(1)


class Hidden(NamedTuple):
    """The base's gate and up numbers [T, H]; the routed tokens' low-rank rows and weights."""

    g: Matrix
    u: Matrix
    low: Rows
    weights: int


class Into(NamedTuple):
    """Bg and Bu, wide (low rank to hidden)."""

    gate: Matrices
    up: Matrices


@njit
def rest(route: Route, weights: int, left: int, start: int, stop: int) -> None:
    """The public expert's weight of every token: 1 - sum of its experts', in their order."""
    for t in range(stop - start):
        put(left, t, ONE)
    for e in range(route.experts):
        for j in range(since(route, e, start), since(route, e, stop)):
            t = get_int(route.tokens, j) - start
            put(left, t, get(left, t) - get(weights, j))


@njit
def forward(
    given: Hidden, into: Into, down: Matrices, z: Rows, route: Route, mixed: Matrix, left: int,
    tiles: int, start: int, stop: int,
) -> None:  # fmt: skip
    """`mixed` = (1 - sum g_i) h + sum g_i h_i and the rows z = Ad_i h_i of the chunk's tokens.

    `down` are Ad, tall; `left` has room for a number per token of the chunk.
    """
    rest(route, given.weights, left, start, stop)
    for e in range(route.experts):
        clear(z, route, e, since(route, e, start), since(route, e, stop))
    for n in range(0, mixed.columns, WIDTH):
        width = min(WIDTH, mixed.columns - n)
        _base(given, left, mixed, tiles, start, stop, n, width)
        for e in range(route.experts):
            lo, hi = since(route, e, start), since(route, e, stop)
            _expert(given, into, down, z, route, mixed, tiles, e, lo, hi, n, width)


@njit
def _base(
    given: Hidden, left: int, mixed: Matrix, tiles: int, start: int, stop: int, n: int, width: int
) -> None:
    tg, tu = tiles, tiles + BYTES
    for t in range(start, stop):
        read(given.g, t, n, width, tg, 0)
        read(given.u, t, n, width, tu, 0)
        swiglu(tg, tu, 1, pad(width), get(left, t - start))
        write(tg, 0, width, mixed, t, n)


@njit
def _expert(
    given: Hidden, into: Into, down: Matrices, z: Rows, route: Route, mixed: Matrix, tiles: int,
    e: int, lo: int, hi: int, n: int, width: int,
) -> None:  # fmt: skip
    tg, tu, a, low = tiles, tiles + BYTES, tiles + 2 * BYTES, given.low
    second = pad(get_int(into.gate.rank, e))
    for j in range(lo, hi, ROWS):
        count, at = min(ROWS, hi - j), place(low, route, e, j)
        read_tile(given.g, route, j, count, n, width, tg)
        read_tile(given.u, route, j, count, n, width, tu)
        spread(low, e, at, count, into.gate, n, width, a, tg)
        spread(low, e, at + second, count, into.up, n, width, a, tu)
        swiglu(tg, tu, count, pad(width), ONE)
        for r in range(count):
            token = get_int(route.tokens, j + r)
            add_to(tg, r * WIDTH, width, get(given.weights, j + r), mixed, token, n)
        gather(tg, width, down, n, z, e, place(z, route, e, j), count, a)


@njit
def read_tile(
    matrix: Matrix, route: Route, j: int, count: int, n: int, width: int, tile: int
) -> None:
    """The rows of `count` routed tokens, from the j-th on."""
    for r in range(count):
        read(matrix, get_int(route.tokens, j + r), n, width, tile, r * WIDTH)
