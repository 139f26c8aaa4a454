"""silu(g) * u and its derivatives on tiles, eight numbers at a time."""

from typing import Any

import numpy as np

from fedmore.kernels.grouped_lowrank.simd import (
    add,
    clamp,
    div,
    fma,
    fms,
    load,
    mul,
    splat,
    store,
    sub,
    sum_of,
    times_power_of_two,
)
from fedmore.kernels.grouped_lowrank.tiles import WIDTH, ZERO
from fedmore.kernels.jit import njit

_F = np.float32
# The polynomial of 2^r for |r| <= 1/2, from exp2f in the Cephes library.
P6, P5, P4 = _F(1.535336188319500e-4), _F(1.339887440266574e-3), _F(9.618437357674640e-3)
P3, P2, P1 = _F(5.550332471162809e-2), _F(2.402264791363012e-1), _F(6.931472028550421e-1)
LOG2E, LOG2E_LOW = _F(-1.44269504088896341), _F(-1.9259629911266175e-8)
LIMIT, ROUND, ONE = _F(87), _F(12582912), _F(1)  # 1.5 * 2^23: adding it rounds to an integer


@njit
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) of a vector, within 2 units in the last place; x is clamped to +-87."""
    y = clamp(x, splat(-LIMIT), splat(LIMIT))
    shifted = fma(y, splat(LOG2E), splat(ROUND))
    k = sub(shifted, splat(ROUND))
    r = fma(y, splat(LOG2E_LOW), fms(y, splat(LOG2E), k))
    p = fma(fma(splat(P6), r, splat(P5)), r, splat(P4))
    p = fma(fma(fma(p, r, splat(P3)), r, splat(P2)), r, splat(P1))
    exp = times_power_of_two(fma(p, r, splat(ONE)), shifted)
    return div(splat(ONE), add(splat(ONE), exp))


@njit
def swiglu(g: int, u: int, rows: int, columns: int, weight: float) -> None:
    """Tile g = weight * (silu(g) * u)."""
    factor = splat(weight)
    for row in range(rows):
        for i in range(row * WIDTH, row * WIDTH + columns, 8):
            x = load(g, i)
            store(g, i, mul(factor, mul(mul(x, sigmoid(x)), load(u, i))))


@njit
def swiglu_backward(g: int, u: int, dy: int, dh: int, weight: float, columns: int) -> float:
    """Differentiate a row of h = silu(g) * u whose gradient is weight * dy + dh, in place.

    On return, g and u hold their own gradients and dh holds h. Returns the inner product dy h.
    """
    factor, total, one = splat(weight), splat(ZERO), splat(ONE)
    for i in range(0, columns, 8):
        x, up, d = load(g, i), load(u, i), load(dy, i)
        s = sigmoid(x)
        a = mul(x, s)
        h = mul(a, up)
        total = fma(d, h, total)
        d = fma(factor, d, load(dh, i))
        store(g, i, mul(mul(d, up), fma(a, sub(one, s), s)))
        store(u, i, mul(d, a))
        store(dh, i, h)
    dot: float = sum_of(total)
    return dot
