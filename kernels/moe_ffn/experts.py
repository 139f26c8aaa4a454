"""Experts in the form that moe_ffn takes, and their factors sorted by kind."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.functional import silu

from fedmore.kernels.grouped_lowrank.factors import Factor, dense, to_train
from fedmore.kernels.moe_ffn.autograd import Stacks
from fedmore.kernels.moe_ffn.reference import Expert as DenseExpert
from fedmore.kernels.moe_ffn.torch_fallback import Act

LowRank = tuple[Factor, Factor]  # B [out, R], A [R, in]
Expert = tuple[LowRank, LowRank, LowRank]  # gate, up, down
Stack = TypeVar("Stack")


def is_silu(act: Act) -> bool:
    """Whether an activation is SiLU (Swish), the only one that loops and kernels compute."""
    return act is silu or isinstance(act, nn.SiLU)


def dense_experts(experts: Sequence[Expert]) -> list[DenseExpert]:
    """Decode all factors to tensors."""
    return [
        ((dense(bg), dense(ag)), (dense(bu), dense(au)), (dense(bd), dense(ad)))
        for (bg, ag), (bu, au), (bd, ad) in experts
    ]


def stacked(make: Callable[..., Stack], experts: Sequence[Expert], kept: bool) -> Stacks[Stack]:
    """Sort the factors by kind, in stacks from `make(factors, transposed, kept)`."""

    def stack(factors: list[Any], transposed: bool) -> Stack:
        return make(factors, transposed=transposed, kept=kept)

    return Stacks(
        into=stack([(g[1], u[1]) for g, u, _ in experts], transposed=False),
        gate=stack([(g[0],) for g, _, _ in experts], transposed=True),
        up=stack([(u[0],) for _, u, _ in experts], transposed=True),
        down=stack([(d[1],) for _, _, d in experts], transposed=False),
        out=stack([(d[0],) for _, _, d in experts], transposed=True),
    )


def trained(experts: Sequence[Expert]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the trained factors of each of the three operations; empty lists if all are frozen."""
    into = [f for g, u, _ in experts for f in (g[1], u[1])]
    inner = [f for g, u, d in experts for f in (g[0], u[0], d[1])]
    return to_train(into), to_train(inner), to_train(d[0] for _, _, d in experts)
