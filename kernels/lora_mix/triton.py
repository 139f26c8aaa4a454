"""lora_mix on an NVIDIA GPU: Triton kernels for float32, bfloat16 and float16.

It has the same functions as `cpu`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_triton
from fedmore.kernels.grouped_lowrank.autograd import expand_add, project
from fedmore.kernels.grouped_lowrank.by_triton import Stack, routed
from fedmore.kernels.grouped_lowrank.factors import Factor, SignTensor, check_dtype, to_train

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
    """Do as `cpu.lora_mix`; raises `ValueError` for a dtype that Triton's form does not take."""
    check_dtype("lora_mix", x_TD, y_TO)
    route, weights = routed(gates_TE)
    if not len(route.tokens):
        return y_TO
    live = () if isinstance(adapters, Prepared) else adapters
    stacks = adapters if isinstance(adapters, Prepared) else _stacked(adapters, kept=False)
    low = project(by_triton, x_TD, route, stacks.a, to_train(a for _, a in live))
    return expand_add(by_triton, y_TO, low, weights, route, stacks.b, to_train(b for b, _ in live))


def _stacked(adapters: Sequence[LowRank], kept: bool) -> Prepared:
    b = Stack([(b,) for b, _ in adapters], transposed=True, kept=kept)
    return Prepared(adapters, b, Stack([(a,) for _, a in adapters], transposed=False, kept=kept))
