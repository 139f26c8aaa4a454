"""numba loops over the tokens of a chunk, expert by expert, on tiles.

Every token's numbers are formed in the same order whatever the chunk, the other tokens and the
experts it is not routed to, so results do not depend on them nor on the number of threads. All
fields are addresses (see `simd`) where nothing else is said.
"""

from typing import NamedTuple

from fedmore.kernels.grouped_lowrank.simd import get, get_int, put
from fedmore.kernels.grouped_lowrank.tiles import (
    BYTES,
    ROWS,
    TILE,
    WIDTH,
    Matrix,
    add_to,
    copy,
    multiply,
    padded,
    read,
    zero,
)
from fedmore.kernels.jit import njit

pad = njit(padded)


class Route(NamedTuple):
    """Expert e has tokens[starts[e]] up to tokens[starts[e + 1]], ascending; `experts` a number."""

    tokens: int
    starts: int
    experts: int


class Matrices(NamedTuple):
    """A matrix per expert, the first number of it at numbers[at[e]].

    `length` is a row's length of a tall one, `rank` the number of a wide one's rows.
    """

    numbers: int
    at: int
    length: int
    rank: int


class Rows(NamedTuple):
    """A row for every routed token, as long as its expert needs; its expert's begin at at[e]."""

    numbers: int
    at: int
    length: int


@njit
def place(rows: Rows, route: Route, expert: int, j: int) -> int:
    """Where the row of routed token j is."""
    first = get_int(route.starts, expert)
    at: int = get_int(rows.at, expert) + (j - first) * get_int(rows.length, expert)
    return at


@njit
def since(route: Route, expert: int, token: int) -> int:
    """The first of the expert's routed tokens that is `token` or a later one."""
    lo: int = get_int(route.starts, expert)
    hi: int = get_int(route.starts, expert + 1)
    while lo < hi:
        middle = (lo + hi) >> 1
        if get_int(route.tokens, middle) < token:
            lo = middle + 1
        else:
            hi = middle
    return lo


@njit
def clear(rows: Rows, route: Route, expert: int, lo: int, hi: int) -> None:
    """Zero the rows of routed tokens lo..hi."""
    at, length = place(rows, route, expert, lo), get_int(rows.length, expert)
    zero(rows.numbers + 4 * at, (hi - lo) * length)


@njit
def spread(
    rows: Rows, e: int, at: int, count: int, mats: Matrices, n: int, width: int, a: int, c: int
) -> None:
    """Tile `c` += `count` rows from number `at` on, times a wide matrix's strip at column n."""
    length, rank = get_int(rows.length, e), get_int(mats.rank, e)
    strip = get_int(mats.at, e) + n * rank
    for s in range(0, rank, WIDTH):
        inner = min(WIDTH, rank - s)
        for r in range(count):
            copy(rows.numbers, at + r * length + s, pad(inner), a, r * WIDTH)
        multiply(a, 0, inner, mats.numbers, strip + s * WIDTH, WIDTH, pad(width), c)


@njit
def gather(
    a: int, width: int, mats: Matrices, n: int, rows: Rows, e: int, at: int, count: int, c: int
) -> None:
    """`count` rows, from number `at` on, += tile `a` times the rows from `n` of a tall matrix."""
    length, whole = get_int(rows.length, e), get_int(mats.length, e)
    for s in range(0, whole, WIDTH):
        some, first = min(WIDTH, whole - s), get_int(mats.at, e) + n * whole + s
        for r in range(count):
            copy(rows.numbers, at + r * length + s, some, c, r * WIDTH)
        multiply(a, 0, width, mats.numbers, first, whole, some, c)
        for r in range(count):
            copy(c, r * WIDTH, some, rows.numbers, at + r * length + s)


@njit
def project(
    x: Matrix, mats: Matrices, route: Route, rows: Rows, tiles: int, start: int, stop: int
) -> None:
    """Every routed token's row: its expert's tall matrix times the token's x."""
    a, c = tiles, tiles + BYTES
    for e in range(route.experts):
        lo, hi = since(route, e, start), since(route, e, stop)
        clear(rows, route, e, lo, hi)
        for n in range(0, x.columns, WIDTH):
            width = min(WIDTH, x.columns - n)
            for j in range(lo, hi, ROWS):
                count = min(ROWS, hi - j)
                for r in range(count):
                    read(x, get_int(route.tokens, j + r), n, width, a, r * WIDTH)
                gather(a, width, mats, n, rows, e, place(rows, route, e, j), count, c)


@njit
def expand_add(
    rows: Rows,
    mats: Matrices,
    route: Route,
    weights: int,
    y: Matrix,
    tiles: int,
    start: int,
    stop: int,
) -> None:
    """Token's y += weight times its row times its expert's wide matrix, in the experts' order."""
    a, c = tiles, tiles + BYTES
    for e in range(route.experts):
        lo, hi = since(route, e, start), since(route, e, stop)
        for n in range(0, y.columns, WIDTH):
            width = min(WIDTH, y.columns - n)
            for j in range(lo, hi, ROWS):
                count = min(ROWS, hi - j)
                zero(c, TILE)
                spread(rows, e, place(rows, route, e, j), count, mats, n, width, a, c)
                for r in range(count):
                    token = get_int(route.tokens, j + r)
                    add_to(c, r * WIDTH, width, get(weights, j + r), y, token, n)


@njit
def dots(one: Rows, other: Rows, route: Route, weights: int, out: int) -> None:
    """The inner product of every routed token's rows; then `one` is multiplied by the weights."""
    for e in range(route.experts):
        for j in range(get_int(route.starts, e), get_int(route.starts, e + 1)):
            at, total, weight = place(one, route, e, j), 0.0, get(weights, j)
            for i in range(at, at + get_int(one.length, e)):
                value = get(one.numbers, i)
                total += value * get(other.numbers, i)
                put(one.numbers, i, value * weight)
            put(out, j, total)
