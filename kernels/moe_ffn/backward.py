"""numba loops of moe_ffn's backward pass: the same tiles, with hidden activations recomputed."""

from typing import NamedTuple

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
from fedmore.kernels.grouped_lowrank.tiles import (
    BYTES,
    ROWS,
    TILE,
    WIDTH,
    ZERO,
    Matrix,
    add_to,
    read,
    write,
    zero,
)
from fedmore.kernels.jit import njit
from fedmore.kernels.moe_ffn.activation import swiglu_backward
from fedmore.kernels.moe_ffn.loops import ONE, Hidden, Into, read_tile, rest


class Arriving(NamedTuple):
    """Gradients of the results of the forward pass: of `mixed` [T, H] and of the rows z."""

    mixed: Matrix
    z: Rows


class Factors(NamedTuple):
    """Wide matrices lead from low rank to hidden (Bg, Bu, Ad), tall ones back (Bg, Bu)."""

    into: Into
    down: Matrices
    gate_tall: Matrices
    up_tall: Matrices


class Kept(NamedTuple):
    """If `on`, dg, du and h of routed token j go to row ``j - first[e]`` of these matrices [n, H].

    The gradients of the factors are computed from them.
    """

    on: bool
    g: Matrix
    u: Matrix
    h: Matrix
    first: int


class Gradients(NamedTuple):
    """Gradients of g, u, the low-rank rows and the weights, which the loops write."""

    g: Matrix
    u: Matrix
    low: Rows
    weights: int
    kept: Kept


@njit
def backward(
    given: Hidden, arriving: Arriving, factors: Factors, route: Route, out: Gradients,
    scratch: int, tiles: int, start: int, stop: int,
) -> None:  # fmt: skip
    """Compute all gradients of a chunk's tokens.

    Args:
        given: inputs of the forward pass.
        arriving: gradients of its results.
        factors: all experts' factors.
        route: which tokens go to which expert.
        out: memory for the gradients.
        scratch: address of room for two float32 per token of the chunk.
        tiles: address of room for five tiles.
        start: first token of the chunk.
        stop: last token of the chunk, exclusive.

    """
    left, public = scratch, scratch + 4 * (stop - start)
    rest(route, given.weights, left, start, stop)
    for t in range(stop - start):
        put(public, t, ZERO)
    for e in range(route.experts):
        lo, hi = since(route, e, start), since(route, e, stop)
        clear(out.low, route, e, lo, hi)
        for j in range(lo, hi):
            put(out.weights, j, ZERO)
    for n in range(0, out.g.columns, WIDTH):
        width = min(WIDTH, out.g.columns - n)
        _base(given, arriving, left, public, out, tiles, start, stop, n, width)
        for e in range(route.experts):
            lo, hi = since(route, e, start), since(route, e, stop)
            _expert(given, arriving, factors, route, out, tiles, e, lo, hi, n, width)
    for e in range(route.experts):
        for j in range(since(route, e, start), since(route, e, stop)):
            base = get(public, get_int(route.tokens, j) - start)
            put(out.weights, j, get(out.weights, j) - base)


@njit
def _base(
    given: Hidden, arriving: Arriving, left: int, public: int, out: Gradients, tiles: int,
    start: int, stop: int, n: int, width: int,
) -> None:  # fmt: skip
    tg, tu, dy, dh = tiles, tiles + BYTES, tiles + 2 * BYTES, tiles + 3 * BYTES
    for t in range(start, stop):
        read(given.g, t, n, width, tg, 0)
        read(given.u, t, n, width, tu, 0)
        read(arriving.mixed, t, n, width, dy, 0)
        zero(dh, WIDTH)
        dot = swiglu_backward(tg, tu, dy, dh, get(left, t - start), pad(width))
        put(public, t - start, get(public, t - start) + dot)
        write(tg, 0, width, out.g, t, n)
        write(tu, 0, width, out.u, t, n)


@njit
def _expert(
    given: Hidden, arriving: Arriving, factors: Factors, route: Route, out: Gradients, tiles: int,
    e: int, lo: int, hi: int, n: int, width: int,
) -> None:  # fmt: skip
    tg, tu, dy, dh = tiles, tiles + BYTES, tiles + 2 * BYTES, tiles + 3 * BYTES
    a, low, second = tiles + 4 * BYTES, given.low, pad(get_int(factors.into.gate.rank, e))
    for j in range(lo, hi, ROWS):
        count, at = min(ROWS, hi - j), place(low, route, e, j)
        read_tile(given.g, route, j, count, n, width, tg)
        read_tile(given.u, route, j, count, n, width, tu)
        read_tile(arriving.mixed, route, j, count, n, width, dy)
        zero(dh, TILE)
        spread(low, e, at, count, factors.into.gate, n, width, a, tg)
        spread(low, e, at + second, count, factors.into.up, n, width, a, tu)
        at_z = place(arriving.z, route, e, j)
        spread(arriving.z, e, at_z, count, factors.down, n, width, a, dh)
        for r in range(count):
            _row(given, route, out, tiles + 4 * r * WIDTH, e, j + r, n, width)
        gather(tg, width, factors.gate_tall, n, out.low, e, at, count, a)
        gather(tu, width, factors.up_tall, n, out.low, e, at + second, count, a)


@njit
def _row(
    given: Hidden, route: Route, out: Gradients, tiles: int, e: int, j: int, n: int, width: int
) -> None:
    """Add the gradients of routed token j at expert e to those of its token."""
    tg, tu, dy, dh = tiles, tiles + BYTES, tiles + 2 * BYTES, tiles + 3 * BYTES
    dot = swiglu_backward(tg, tu, dy, dh, get(given.weights, j), pad(width))
    put(out.weights, j, get(out.weights, j) + dot)
    token = get_int(route.tokens, j)
    add_to(tg, 0, width, ONE, out.g, token, n)
    add_to(tu, 0, width, ONE, out.u, token, n)
    if out.kept.on:
        row = j - get_int(out.kept.first, e)
        write(tg, 0, width, out.kept.g, row, n)
        write(tu, 0, width, out.kept.u, row, n)
        write(dh, 0, width, out.kept.h, row, n)
