"""Triton kernels of moe_ffn, called by `by_triton`. Sums are float32.

Shapes are those of the package. A *tile* is TOKENS x COLUMNS numbers. Arguments, as in
`grouped_lowrank.by_triton` if not listed here:

- `g`, `u`, `mixed` [T, H]: the base's gate and up activations and the result; `dy`, `dg`, `du`
  their gradients (`dy` is that of `mixed`)
- `low` and `low_at`: the routed tokens' low-rank rows, gate's before up's, and each expert's offset
- `gate`, `up` and `tables` [4, E]: factors Bg and Bu, their offsets and ranks (gate's, then up's)
- `down` and `down_table` [2, E]: factors Ad, their offsets and ranks
- `z`, `dz` with `z_at`, `dz_at`: the rows Ad h, their gradients, and each expert's offset
- `kept_g`, `kept_u`, `kept_h` [n, H]: one expert's activations for its factors' gradients
- `e` an expert, `j` a routed token's number, `t` a token, `n` a hidden column, `ok` the mask of j
"""

from typing import Any

import triton.language as tl

from fedmore.kernels.grouped_lowrank.by_triton import expanded, factor_tile, product
from fedmore.kernels.jit import triton_jit


@triton_jit
def tile_of(matrix: Any, t: Any, n: Any, hidden: Any, inside: Any) -> Any:
    """Load numbers (t, n) of a matrix [T, H] as float32."""
    at = matrix + t.to(tl.int64)[:, None] * hidden + n[None, :]
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton_jit
def hidden_tile(
    g: Any, u: Any, low: Any, low_at: Any, gate: Any, up: Any, tables: Any, starts: Any, e: Any,
    j: Any, ok: Any, n: Any, hidden: Any, experts: Any, RANKS: tl.constexpr, WIDEN: tl.constexpr,
) -> Any:  # fmt: skip
    """Add the low-rank terms of expert e to the base's tiles g and u of its routed tokens j."""
    gate_rank, up_rank = tl.load(tables + experts + e), tl.load(tables + 3 * experts + e)
    row = tl.load(low_at + e) + (j - tl.load(starts + e)) * (gate_rank + up_rank)
    gate, up = gate + tl.load(tables + e), up + tl.load(tables + 2 * experts + e)
    g = expanded(g, low, row, ok, gate, n, 0, gate_rank, hidden, True, RANKS, WIDEN)
    u = expanded(u, low, row, ok, up, n, gate_rank, up_rank, hidden, True, RANKS, WIDEN)
    return g, u


@triton_jit
def public_weight(place: Any, weights: Any, t: Any, count: Any, experts: Any) -> Any:
    """1 - sum of the experts' weights of tokens t, added in the experts' order."""
    left = tl.where(t < count, 1.0, 0.0)
    for e in range(experts):
        j = tl.load(place + t * experts + e, mask=t < count, other=-1)
        left -= tl.load(weights + j, mask=j >= 0, other=0.0)
    return left


@triton_jit
def mix(
    g: Any, u: Any, low: Any, low_at: Any, gate: Any, up: Any, tables: Any, starts: Any,
    place: Any, weights: Any, mixed: Any, count: Any, hidden: Any, experts: Any,
    RANKS: tl.constexpr, WIDEN: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Compute a tile of `mixed` = (1 - sum g_i) h + sum g_i h_i."""
    t = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (t < count)[:, None] & (n < hidden)[None, :]
    base_g, base_u = tile_of(g, t, n, hidden, inside), tile_of(u, t, n, hidden, inside)
    left = public_weight(place, weights, t, count, experts)
    total = left[:, None] * (base_g * tl.sigmoid(base_g) * base_u)
    for e in range(experts):
        j = tl.load(place + t * experts + e, mask=t < count, other=-1)
        if tl.max(j, axis=0) >= 0:
            x, up_x = hidden_tile(
                base_g, base_u, low, low_at, gate, up, tables, starts, e, j, j >= 0, n, hidden,
                experts, RANKS, WIDEN,
            )  # fmt: skip
            weight = tl.load(weights + j, mask=j >= 0, other=0.0)
            part = weight[:, None] * (x * tl.sigmoid(x) * up_x)
            total += tl.where((j >= 0)[:, None], part, 0.0)
    tl.store(mixed + t[:, None] * hidden + n[None, :], total, mask=inside)


@triton_jit
def down_rows(
    g: Any, u: Any, low: Any, low_at: Any, gate: Any, up: Any, tables: Any, starts: Any,
    tokens: Any, tiles: Any, down: Any, down_table: Any, z: Any, z_at: Any, hidden: Any,
    experts: Any, RANKS: tl.constexpr, OUT: tl.constexpr, WIDEN: tl.constexpr,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the rows z = Ad h of one expert's tokens."""
    e = tl.load(tiles + 3 * tl.program_id(0))
    j = tl.load(tiles + 3 * tl.program_id(0) + 1) + tl.arange(0, TOKENS)
    ok = j < tl.load(tiles + 3 * tl.program_id(0) + 2)
    t = tl.load(tokens + j, mask=ok, other=0)
    mine, rank = down + tl.load(down_table + e), tl.load(down_table + experts + e)
    row = tl.load(z_at + e) + (j - tl.load(starts + e)) * rank
    for r0 in range(0, rank, OUT):
        r = r0 + tl.arange(0, OUT)
        total = tl.zeros((TOKENS, OUT), tl.float32)
        for n0 in range(0, hidden, COLUMNS):
            n = n0 + tl.arange(0, COLUMNS)
            inside = ok[:, None] & (n < hidden)[None, :]
            x, up_x = hidden_tile(
                tile_of(g, t, n, hidden, inside), tile_of(u, t, n, hidden, inside), low, low_at,
                gate, up, tables, starts, e, j, ok, n, hidden, experts, RANKS, WIDEN,
            )  # fmt: skip
            a = factor_tile(mine, r[None, :], n[:, None], rank, hidden, False)
            h = x * tl.sigmoid(x) * up_x
            total += product(h.to(a.dtype), a, WIDEN)
        tl.store(z + row[:, None] + r[None, :], total, mask=ok[:, None] & (r < rank)[None, :])


@triton_jit
def swiglu_gradients(x: Any, up: Any, dh: Any) -> Any:
    """Gradients of x and up if h = silu(x) * up has the gradient dh."""
    s = tl.sigmoid(x)
    a = x * s
    return dh * up * (s + a * (1 - s)), dh * a


@triton_jit
def gradient_tile(
    x: Any, up: Any, dy: Any, weight: Any, dz: Any, dz_at: Any, down: Any, down_table: Any,
    starts: Any, e: Any, j: Any, ok: Any, n: Any, hidden: Any, experts: Any, RANKS: tl.constexpr,
    WIDEN: tl.constexpr,
) -> Any:  # fmt: skip
    """Gradients of an expert's gate and up activations, here x and up."""
    mine, rank = down + tl.load(down_table + e), tl.load(down_table + experts + e)
    row = tl.load(dz_at + e) + (j - tl.load(starts + e)) * rank
    dh = weight[:, None] * dy
    dh = expanded(dh, dz, row, ok, mine, n, 0, rank, hidden, False, RANKS, WIDEN)
    return swiglu_gradients(x, up, dh)


@triton_jit
def base_gradients(
    g: Any, u: Any, low: Any, low_at: Any, gate: Any, up: Any, tables: Any, starts: Any,
    place: Any, weights: Any, dy: Any, dz: Any, dz_at: Any, down: Any, down_table: Any, dg: Any,
    du: Any, count: Any, hidden: Any, experts: Any, RANKS: tl.constexpr, WIDEN: tl.constexpr,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Compute a tile of dg and du, summed over the public expert and the token's experts."""
    t = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (t < count)[:, None] & (n < hidden)[None, :]
    base_g, base_u = tile_of(g, t, n, hidden, inside), tile_of(u, t, n, hidden, inside)
    d_mixed = tile_of(dy, t, n, hidden, inside)
    left = public_weight(place, weights, t, count, experts)
    total_g, total_u = swiglu_gradients(base_g, base_u, left[:, None] * d_mixed)
    for e in range(experts):
        j = tl.load(place + t * experts + e, mask=t < count, other=-1)
        if tl.max(j, axis=0) >= 0:
            ok = j >= 0
            x, up_x = hidden_tile(
                base_g, base_u, low, low_at, gate, up, tables, starts, e, j, ok, n, hidden,
                experts, RANKS, WIDEN,
            )  # fmt: skip
            weight = tl.load(weights + j, mask=ok, other=0.0)
            d_x, d_up = gradient_tile(
                x, up_x, d_mixed, weight, dz, dz_at, down, down_table, starts, e, j, ok, n, hidden,
                experts, RANKS, WIDEN,
            )  # fmt: skip
            total_g += tl.where(ok[:, None], d_x, 0.0)
            total_u += tl.where(ok[:, None], d_up, 0.0)
    tl.store(dg + t[:, None] * hidden + n[None, :], total_g, mask=inside)
    tl.store(du + t[:, None] * hidden + n[None, :], total_u, mask=inside)


@triton_jit
def row_gradients(
    g: Any, u: Any, low: Any, low_at: Any, gate: Any, up: Any, tables: Any, starts: Any,
    tokens: Any, tiles: Any, weights: Any, dy: Any, dz: Any, dz_at: Any, down: Any,
    down_table: Any, d_low: Any, d_weights: Any, kept_g: Any, kept_u: Any, kept_h: Any,
    hidden: Any, experts: Any, KEEP: tl.constexpr, RANKS: tl.constexpr, WIDEN: tl.constexpr,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the gradients of one expert's low-rank rows and weights.

    With KEEP it also stores dg, du and h, from which torch computes the factors' gradients.
    """
    e = tl.load(tiles + 3 * tl.program_id(0))
    j = tl.load(tiles + 3 * tl.program_id(0) + 1) + tl.arange(0, TOKENS)
    ok = j < tl.load(tiles + 3 * tl.program_id(0) + 2)
    t, weight = tl.load(tokens + j, mask=ok, other=0), tl.load(weights + j, mask=ok, other=0.0)
    gate_rank, up_rank = tl.load(tables + experts + e), tl.load(tables + 3 * experts + e)
    mine_g, mine_u = gate + tl.load(tables + e), up + tl.load(tables + 2 * experts + e)
    local = j - tl.load(starts + e)
    row = tl.load(low_at + e) + local * (gate_rank + up_rank)
    # At least one pass: an expert of rank 0, too, has a weight's gradient and activations to keep.
    for r0 in range(0, tl.maximum(tl.maximum(gate_rank, up_rank), 1), RANKS):
        r = r0 + tl.arange(0, RANKS)
        total_g = tl.zeros((TOKENS, RANKS), tl.float32)
        total_u = tl.zeros((TOKENS, RANKS), tl.float32)
        dot = tl.zeros((TOKENS,), tl.float32)
        for n0 in range(0, hidden, COLUMNS):
            n = n0 + tl.arange(0, COLUMNS)
            inside = ok[:, None] & (n < hidden)[None, :]
            x, up_x = hidden_tile(
                tile_of(g, t, n, hidden, inside), tile_of(u, t, n, hidden, inside), low, low_at,
                gate, up, tables, starts, e, j, ok, n, hidden, experts, RANKS, WIDEN,
            )  # fmt: skip
            d_mixed, h = tile_of(dy, t, n, hidden, inside), x * tl.sigmoid(x) * up_x
            dot += tl.sum(tl.where(inside, d_mixed * h, 0.0), axis=1)
            d_x, d_up = gradient_tile(
                x, up_x, d_mixed, weight, dz, dz_at, down, down_table, starts, e, j, ok, n, hidden,
                experts, RANKS, WIDEN,
            )  # fmt: skip
            b = factor_tile(mine_g, r[None, :], n[:, None], gate_rank, hidden, True)
            total_g += product(d_x.to(b.dtype), b, WIDEN)
            b = factor_tile(mine_u, r[None, :], n[:, None], up_rank, hidden, True)
            total_u += product(d_up.to(b.dtype), b, WIDEN)
            if KEEP:
                at = local.to(tl.int64)[:, None] * hidden + n[None, :]
                tl.store(kept_g + at, d_x, mask=inside)
                tl.store(kept_u + at, d_up, mask=inside)
                tl.store(kept_h + at, h, mask=inside)
        at = d_low + row[:, None] + r[None, :]
        tl.store(at, total_g, mask=ok[:, None] & (r < gate_rank)[None, :])
        tl.store(at + gate_rank, total_u, mask=ok[:, None] & (r < up_rank)[None, :])
        tl.store(d_weights + j, dot, mask=ok)
