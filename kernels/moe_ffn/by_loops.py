"""The numba loops as a form for `autograd`: float32, in torch's threads."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank.autograd import each
from fedmore.kernels.grouped_lowrank.by_loops import CHUNK
from fedmore.kernels.grouped_lowrank.pack import Route, Stack, address, as_rows, empty_rows, matrix
from fedmore.kernels.grouped_lowrank.tiles import TILE
from fedmore.kernels.jit import in_chunks
from fedmore.kernels.moe_ffn import autograd, loops
from fedmore.kernels.moe_ffn import backward as back_loops

Stacks = autograd.Stacks[Stack]
# Number of tokens whose hidden activations are kept at once while factors are trained.
KEPT = 256


def forward(
    g_TH: Tensor, u_TH: Tensor, low: Tensor, weights: Tensor, route: Route, stacks: Stacks
) -> tuple[Tensor, Tensor]:
    """See `autograd.Form`."""
    inputs = _Inputs(g_TH, u_TH, low, weights, route, stacks)
    mixed, numbers = torch.empty(g_TH.shape), empty_rows(stacks.down, route)
    z, down = as_rows(numbers, stacks.down, route), stacks.down.tall(route)
    given = inputs.hidden, inputs.into, down.raw, z.raw, route.held.raw, matrix(mixed)

    def work(start: int, stop: int) -> None:
        scratch, tiles = torch.empty(stop - start), torch.zeros(3, TILE)
        loops.forward(*given, address(scratch), address(tiles), start, stop)

    in_chunks(work, route.count, CHUNK)
    return mixed, numbers


def backward(
    given: tuple[Tensor, ...], arriving: tuple[Tensor, Tensor], route: Route, stacks: Stacks,
    factors: list[Tensor],
) -> tuple[autograd.Found, list[Tensor]]:  # fmt: skip
    """See `autograd.Form`."""
    g, u, low, weights = given
    back = _Backward(_Inputs(g, u, low, weights, route, stacks), *arriving)
    grads = [torch.zeros(f.shape) for f in factors]
    if factors:
        for start in range(0, route.count, KEPT):
            back.run_and_train(start, min(start + KEPT, route.count), grads)
    else:
        back.run(0, route.count, None)
    return back.found, grads


class _Inputs:
    """The addresses that the loops get, and the tensors there, which must live as long."""

    def __init__(
        self, g: Tensor, u: Tensor, low: Tensor, weights: Tensor, route: Route, stacks: Stacks
    ) -> None:
        self.route, self.stacks = route, stacks
        self.tensors = g, u, low, weights = [t.detach().contiguous() for t in (g, u, low, weights)]
        self.low, self.rows = low, as_rows(low, stacks.into, route)
        self.packed = stacks.gate.wide(route), stacks.up.wide(route)
        self.hidden = loops.Hidden(matrix(g), matrix(u), self.rows.raw, address(weights))
        self.into = loops.Into(*(p.raw for p in self.packed))


class _Backward:
    """One backward pass; `found` has the gradients of g, u, the low-rank rows and the weights."""

    def __init__(self, inputs: _Inputs, d_mixed: Tensor, d_z: Tensor) -> None:
        d_mixed, d_z = d_mixed.contiguous(), d_z.contiguous()
        self.inputs, self.d_mixed, self.d_z = inputs, d_mixed, d_z
        self.route, self.stacks = inputs.route, inputs.stacks
        g, u, low, weights = inputs.tensors
        dg, du, d_low, d_weights = (torch.empty(t.shape) for t in (g, u, low, weights))
        self.found = dg, du, d_low, d_weights
        stacks, route = self.stacks, self.route
        self.z = as_rows(d_z, stacks.down, route)
        self.d_low = as_rows(d_low, stacks.into, route)
        self.packed = stacks.down.wide(route), stacks.gate.tall(route), stacks.up.tall(route)
        arriving = back_loops.Arriving(matrix(d_mixed), self.z.raw)
        factors = back_loops.Factors(inputs.into, *(p.raw for p in self.packed))
        self.given = inputs.hidden, arriving, factors, route.held.raw
        self.memory = torch.empty(0)

    def run(self, start: int, stop: int, kept: "_Kept | None") -> None:
        """Compute the gradients of tokens `start` to `stop`; `kept` gets what the factors need."""
        dg, du, _, d_weights = self.found
        places = kept.raw if kept else back_loops.Kept(False, matrix(dg), matrix(dg), matrix(dg), 0)
        fixed = matrix(dg), matrix(du), self.d_low.raw, address(d_weights)
        out = back_loops.Gradients(*fixed, places)

        def work(first: int, last: int) -> None:
            scratch, tiles = torch.empty(2, last - first), torch.zeros(5, TILE)
            memory = address(scratch), address(tiles)
            back_loops.backward(*self.given, out, *memory, start + first, start + last)

        in_chunks(work, stop - start, CHUNK)

    def run_and_train(self, start: int, stop: int, grads: list[Tensor]) -> None:
        """Do as `run`, and add the tokens' share of the gradients of Bg, Bu and Ad to `grads`."""
        kept = _Kept(self.route, start, stop, self.found[0].shape[1], self.memory)
        self.memory = kept.memory
        self.run(start, stop, kept)
        stacks = self.stacks
        lows = each(stacks.into, self.route, self.inputs.low)
        d_zs = each(stacks.down, self.route, self.d_z)
        for e, (own, (dg, du, h)) in enumerate(kept.parts()):
            low, d_z = lows[e][1][own], d_zs[e][1][own]
            gate, up, down = (s.ranks[e][0] for s in (stacks.gate, stacks.up, stacks.down))
            # Computed as [R, H] and transposed: BLAS is five times slower at [H, R].
            grads[3 * e] += (low[:, :gate].T @ dg).T
            grads[3 * e + 1] += (low[:, stacks.into.firsts[e][1] :][:, :up].T @ du).T
            grads[3 * e + 2] += d_z[:, :down].T @ h


class _Kept:
    """dg, du and h of the routed tokens `start` to `stop`, one expert after the other."""

    def __init__(self, route: Route, start: int, stop: int, hidden: int, memory: Tensor) -> None:
        self.own, self.rows = [], [0]
        for tokens in torch.split(route.tokens, route.sizes):
            lo, hi = torch.searchsorted(tokens, torch.tensor([start, stop])).tolist()
            self.own.append(slice(lo, hi))
            self.rows.append(self.rows[-1] + hi - lo)
        size = 3 * self.rows[-1] * hidden
        # Fresh memory costs more than the arithmetic on it, so it is reused.
        self.memory = memory if memory.numel() >= size else torch.empty(size)
        self.numbers = self.memory[:size].view(3, self.rows[-1], hidden)
        firsts = zip(route.starts, self.own, self.rows, strict=False)
        self.first = torch.tensor([first + own.start - row for first, own, row in firsts])
        g, u, h = map(matrix, self.numbers)
        self.raw = back_loops.Kept(True, g, u, h, address(self.first))

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield for every expert the slice of routed tokens and their numbers [3, n, H]."""
        for own, (first, last) in zip(self.own, pairwise(self.rows), strict=True):
            yield own, self.numbers[:, first:last]
