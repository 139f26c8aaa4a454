"""numba loops over the tokens of a chunk, expert by expert, on tiles.

The order of operations for a token depends neither on the chunk nor on other tokens or experts. So
the number of threads does not change a bit of the result.

All fields below are addresses (see `simd`) if nothing else is said. In the loops, `e` is an expert,
`j` a routed token, `n` a column, `start` to `stop` the tokens of the chunk; `tiles` is scratch
memory for the tiles `a` (input) and `c` (result).
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
    """Expert e has ``tokens[starts[e]:starts[e + 1]]``, ascending; `experts` is their number."""

    tokens: int
    starts: int
    experts: int


class Matrices(NamedTuple):
    """A matrix per expert; that of expert e begins at ``numbers[at[e]]``.

    A tall matrix has rows of ``length[e]`` numbers; a wide one has ``rank[e]`` rows.
    """

    numbers: int
    at: int
    length: int
    rank: int


class Rows(NamedTuple):
    """A row of ``length[e]`` numbers per routed token; those of expert e begin at ``at[e]``."""

    numbers: int
    at: int
    length: int


@njit
def place(rows: Rows, route: Route, expert: int, j: int) -> int:
    """Offset of the row of routed token j."""
    first = get_int(route.starts, expert)
    at: int = get_int(rows.at, expert) + (j - first) * get_int(rows.length, expert)
    return at


@njit
def since(route: Route, expert: int, token: int) -> int:
    """Binary search: the expert's first routed token that is not before `token`."""
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
    """Zero the rows of routed tokens lo to hi - 1."""
    at, length = place(rows, route, expert, lo), get_int(rows.length, expert)
    zero(rows.numbers + 4 * at, (hi - lo) * length)


@njit
def spread(
    rows: Rows, e: int, at: int, count: int, mats: Matrices, n: int, width: int, a: int, c: int
) -> None:
    """Tile `c` += rows times a strip of a wide matrix, columns n to n + `width`.

    The `count` rows lie one after the other from offset `at` on; they are copied to tile `a`.
    """
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
    """Rows += tile `a` times rows n to n + `width` of a tall matrix.

    The `count` rows lie one after the other from offset `at` on; tile `c` is scratch.
    """
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
    """Compute every routed token's row: the token's x times its expert's tall matrix."""
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
    """Y += weight * row times its expert's wide matrix, for every token in order of experts."""
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
    """Write every routed token's inner product of its two rows; then scale `one` by the weights."""
    for e in range(route.experts):
        for j in range(get_int(route.starts, e), get_int(route.starts, e + 1)):
            at, total, weight = place(one, route, e, j), 0.0, get(weights, j)
            for i in range(at, at + get_int(one.length, e)):
                value = get(one.numbers, i)
                total += value * get(other.numbers, i)
                put(one.numbers, i, value * weight)
            put(out, j, total)
