"""numba loops of moe_ffn: for a strip of 128 hidden columns, all experts over a chunk of tokens.

Nothing of size tokens x experts x H exists. An expert's hidden activations live in a tile. The tile
takes its low-rank terms, goes through the activation, and is at once added to the token's sum and
to its row of the down factor. The order per token is fixed, as in `grouped_lowrank.loops`, which
explains the common arguments.
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
    """The base's gate and up activations [T, H]; the routed tokens' low-rank rows and weights."""

    g: Matrix
    u: Matrix
    low: Rows
    weights: int


class Into(NamedTuple):
    """The wide matrices Bg and Bu, which lead from low rank to hidden."""

    gate: Matrices
    up: Matrices


@njit
def rest(route: Route, weights: int, left: int, start: int, stop: int) -> None:
    """Write each token's weight of the public expert to `left`: 1 - sum of the experts' weights."""
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
    """Compute `mixed` = (1 - sum g_i) h + sum g_i h_i and the rows z = Ad_i h_i of a chunk.

    Args:
        given: base activations, low-rank rows and weights.
        into: the factors Bg and Bu.
        down: the factors Ad, tall.
        z: memory for the rows.
        route: which tokens go to which expert.
        mixed: memory for the mixed activations, [T, H].
        left: address of room for one float32 per token of the chunk.
        tiles: address of room for three tiles.
        start: first token of the chunk.
        stop: last token of the chunk, exclusive.

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
    """Read `width` columns from n on of `count` routed tokens, from the j-th on, into a tile."""
    for r in range(count):
        read(matrix, get_int(route.tokens, j + r), n, width, tile, r * WIDTH)
