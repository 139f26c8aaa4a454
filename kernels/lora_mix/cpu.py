"""lora_mix on the CPU: numba loops in torch's threads for float32, plain torch for other dtypes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_loops
from fedmore.kernels.grouped_lowrank.autograd import expand_add, project
from fedmore.kernels.grouped_lowrank.factors import (
    Change,
    Factor,
    LowRank,
    SignTensor,
    is_low_rank,
    to_train,
)
from fedmore.kernels.grouped_lowrank.pack import Stack, routed
from fedmore.kernels.lora_mix import torch_fallback

__all__ = ["Factor", "Prepared", "SignTensor", "lora_mix", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Frozen adapters, packed once, and again after one was written to."""

    adapters: Sequence[Change]
    b: Stack
    a: Stack
    low: list[int]
    full: list[int]


def prepare(adapters: Sequence[Change]) -> Prepared:
    """Pack frozen adapters for repeated use; no gradient reaches their factors."""
    return _stacked(adapters, kept=True)


def lora_mix(
    y_TO: Tensor, x_TD: Tensor, gates_TE: Tensor, adapters: Sequence[Change] | Prepared
) -> Tensor:
    """Return `y_TO` plus every adapter's weighted change: a new tensor [T, O], dtype as `y_TO`.

    An adapter whose weight is exactly zero is skipped for that token: its numbers are not read, and
    the weight gets no gradient.

    Args:
        y_TO: output of the linear layer, [T, O].
        x_TD: input of the linear layer, [T, D].
        gates_TE: weights of the adapters, [T, E].
        adapters: changes (B [O, R], A [R, D]) or (D [O, D],), or what `prepare` made of them.

    """
    held = adapters if isinstance(adapters, Prepared) else _stacked(adapters, kept=False)
    if not (x_TD.dtype == y_TO.dtype == torch.float32):
        return torch_fallback.lora_mix(y_TO, x_TD, gates_TE, held.adapters)
    if held.full:
        full, gates_TF = [held.adapters[i] for i in held.full], gates_TE[:, held.full]
        y_TO = torch_fallback.lora_mix(y_TO, x_TD, gates_TF, full)
        gates_TE = gates_TE[:, held.low]
    route, weights = routed(gates_TE.to(x_TD.dtype))
    if not len(route.tokens):
        return y_TO
    live = [] if isinstance(adapters, Prepared) else list(filter(is_low_rank, adapters))
    low = project(by_loops, x_TD, route, held.a, to_train(a for _, a in live))
    return expand_add(by_loops, y_TO, low, weights, route, held.b, to_train(b for b, _ in live))


def _stacked(adapters: Sequence[Change], kept: bool) -> Prepared:
    low = [i for i, change in enumerate(adapters) if is_low_rank(change)]
    full = [i for i in range(len(adapters)) if i not in low]
    pairs = list[LowRank](filter(is_low_rank, adapters))
    b = Stack([(b,) for b, _ in pairs], transposed=True, kept=kept)
    a = Stack([(a,) for _, a in pairs], transposed=False, kept=kept)
    return Prepared(adapters, b, a, low, full)
