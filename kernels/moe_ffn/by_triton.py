"""Triton kernels as a form for `autograd`: float32, bfloat16, float16; sums in float32.

The forward pass computes an expert's hidden tiles twice: once for the tokens' sums and once for the
expert's rows. So nothing is added atomically, and results do not vary. torch computes the gradients
of trained factors.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.functional import silu

from fedmore.kernels.grouped_lowrank.autograd import each
from fedmore.kernels.grouped_lowrank.by_triton import COLUMNS, TOKENS, Route, Stack, widen
from fedmore.kernels.moe_ffn import autograd, triton_kernels

Stacks = autograd.Stacks[Stack]


class _Inputs:
    """The arguments that all kernels have in common."""

    def __init__(
        self, g: Tensor, u: Tensor, low: Tensor, weights: Tensor, route: Route, stacks: Stacks
    ) -> None:
        self.g, self.u, self.low = g.detach().contiguous(), u.detach().contiguous(), low.detach()
        self.weights, self.route, self.stacks = weights.detach().contiguous(), route, stacks
        gate, gate_table = stacks.gate.packed(g)
        up, up_table = stacks.up.packed(g)
        low_at, tables = stacks.into.rows_at(route), torch.cat([gate_table, up_table])
        self.shared = self.g, self.u, self.low, low_at, gate, up, tables, route.starts
        self.down = stacks.down.packed(g)
        self.count, self.hidden = g.shape
        self.experts = len(route.sizes)
        self.by_token = triton.cdiv(self.count, TOKENS), triton.cdiv(self.hidden, COLUMNS)
        blocks = max(stacks.gate.block(), stacks.up.block(), stacks.down.block())
        self.tile = {"TOKENS": TOKENS, "COLUMNS": COLUMNS, "WIDEN": widen(), "RANKS": blocks}


def forward(
    g_TH: Tensor, u_TH: Tensor, low: Tensor, weights: Tensor, route: Route, stacks: Stacks
) -> tuple[Tensor, Tensor]:
    """See `autograd.Form`."""
    given = _Inputs(g_TH, u_TH, low, weights, route, stacks)
    mixed, z = torch.empty_like(given.g), stacks.down.empty_rows(route)
    sizes = given.hidden, given.experts
    triton_kernels.mix[given.by_token](
        *given.shared, route.place_TE, given.weights, mixed, given.count, *sizes, **given.tile
    )
    triton_kernels.down_rows[(len(route.tiles),)](
        *given.shared, route.tokens, route.tiles, *given.down, z, stacks.down.rows_at(route),
        *sizes, OUT=stacks.down.block(), **given.tile,
    )  # fmt: skip
    return mixed, z


def backward(
    given: tuple[Tensor, ...], arriving: tuple[Tensor, Tensor], route: Route, stacks: Stacks,
    factors: list[Tensor],
) -> tuple[autograd.Found, list[Tensor]]:  # fmt: skip
    """See `autograd.Form`."""
    g, u, low, weights = given
    inputs = _Inputs(g, u, low, weights, route, stacks)
    d_mixed, d_z = (t.contiguous() for t in arriving)
    dg, du = torch.empty_like(inputs.g), torch.empty_like(inputs.g)
    d_low, d_weights = torch.empty_like(low), torch.empty_like(inputs.weights)
    rest = d_mixed, d_z, stacks.down.rows_at(route), *inputs.down
    triton_kernels.base_gradients[inputs.by_token](
        *inputs.shared, route.place_TE, inputs.weights, *rest, dg, du, inputs.count,
        inputs.hidden, inputs.experts, **inputs.tile,
    )  # fmt: skip
    grads = _row_gradients(inputs, rest, d_low, d_weights, factors)
    public = (d_mixed.float() * silu(inputs.g.float()) * inputs.u.float()).sum(1)
    return (dg, du, d_low, d_weights - public[route.tokens]), grads


def _row_gradients(
    inputs: _Inputs, rest: tuple[Any, ...], d_low: Tensor, d_weights: Tensor, factors: list[Tensor]
) -> list[Tensor]:
    """Fill `d_low` and `d_weights`; return the gradients of `factors`, empty if there are none."""
    route, stacks = inputs.route, inputs.stacks
    sizes = inputs.hidden, inputs.experts

    def launch(tiles: Tensor, kept: Tensor) -> None:
        if len(tiles):
            triton_kernels.row_gradients[(len(tiles),)](
                *inputs.shared, route.tokens, tiles, inputs.weights, *rest, d_low, d_weights,
                *kept, *sizes, KEEP=bool(factors), **inputs.tile,
            )  # fmt: skip

    if not factors:
        launch(route.tiles, inputs.g.new_empty(3, 1))
        return []
    grads, lows = [], each(stacks.into, route, inputs.low)
    d_zs = each(stacks.down, route, rest[1])
    for e, size in enumerate(route.sizes):
        kept = inputs.g.new_empty(3, size, inputs.hidden)
        launch(route.tiles[route.tiles[:, 0] == e], kept)
        (dg, du, h), gate = kept, stacks.gate.ranks[e][0]
        low, d_z = lows[e][1].to(dg.dtype), d_zs[e][1].to(dg.dtype)
        grads += [dg.T @ low[:, :gate], du.T @ low[:, gate:], d_z.T @ h]
    return grads
