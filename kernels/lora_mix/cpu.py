"""lora_mix on the CPU: numba loops in torch's threads for float32, plain torch for other dtypes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_loops
from fedmore.kernels.grouped_lowrank.autograd import expand_add, project
from fedmore.kernels.grouped_lowrank.factors import Factor, SignTensor, dense, to_train
from fedmore.kernels.grouped_lowrank.pack import Stack, routed
from fedmore.kernels.lora_mix import torch_fallback

__all__ = ["Factor", "Prepared", "SignTensor", "lora_mix", "prepare"]

LowRank = tuple[Factor, Factor]  # B [O, R], A [R, D]


@dataclass(frozen=True)
class Prepared:
    """Frozen adapters, packed once, and again after one was written to."""

    adapters: Sequence[LowRank]
    b: Stack
    a: Stack


def prepare(adapters: Sequence[LowRank]) -> Prepared:
    """Pack frozen adapters for repeated use; no gradient reaches their factors."""
    return _stacked(adapters, kept=True)


def lora_mix(
    y_TO: Tensor, x_TD: Tensor, gates_TE: Tensor, adapters: Sequence[LowRank] | Prepared
) -> Tensor:
    """Return `y_TO` plus every adapter's weighted change: a new tensor [T, O], dtype as `y_TO`.

    An adapter whose weight is exactly zero is skipped for that token: its numbers are not read, and
    the weight gets no gradient.

    Args:
        y_TO: output of the linear layer, [T, O].
        x_TD: input of the linear layer, [T, D].
        gates_TE: weights of the adapters, [T, E].
        adapters: pairs (B [O, R], A [R, D]), or what `prepare` made of them.

    """
    given = adapters.adapters if isinstance(adapters, Prepared) else adapters
    if not (x_TD.dtype == y_TO.dtype == torch.float32):
        return torch_fallback.lora_mix(
            y_TO, x_TD, gates_TE, [(dense(b), dense(a)) for b, a in given]
        )
    route, weights = routed(gates_TE.to(x_TD.dtype))
    if not len(route.tokens):
        return y_TO
    stacks = adapters if isinstance(adapters, Prepared) else _stacked(given, kept=False)
    live = () if isinstance(adapters, Prepared) else adapters
    low = project(by_loops, x_TD, route, stacks.a, to_train(a for _, a in live))
    return expand_add(by_loops, y_TO, low, weights, route, stacks.b, to_train(b for b, _ in live))


def _stacked(adapters: Sequence[LowRank], kept: bool) -> Prepared:
    b = Stack([(b,) for b, _ in adapters], transposed=True, kept=kept)
    return Prepared(adapters, b, Stack([(a,) for _, a in adapters], transposed=False, kept=kept))
