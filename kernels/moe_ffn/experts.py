"""Experts in the form that moe_ffn takes, and their factors sorted by kind."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.functional import silu

from fedmore.kernels.grouped_lowrank.factors import LowRank, is_low_rank, to_train
from fedmore.kernels.moe_ffn.autograd import Stacks
from fedmore.kernels.moe_ffn.torch_fallback import Act, Expert

LowRankExpert = tuple[LowRank, LowRank, LowRank]
Stack = TypeVar("Stack")


def is_silu(act: Act) -> bool:
    """Whether an activation is SiLU (Swish), the only one that loops and kernels compute."""
    return act is silu or isinstance(act, nn.SiLU)


def parted(experts: Sequence[Expert]) -> tuple[list[int], list[int]]:
    """Return the indices of the experts of low rank, and of those with a full-size matrix.

    An expert with one full-size matrix counts among the latter, whatever its others are.
    """
    low = [i for i, expert in enumerate(experts) if all(map(is_low_rank, expert))]
    return low, [i for i in range(len(experts)) if i not in low]


def of_low_rank(experts: Sequence[Expert]) -> list[LowRankExpert]:
    """Return the experts of low rank, in order."""
    found: list[LowRankExpert] = []
    for gate, up, down in experts:
        if len(gate) == 2 and len(up) == 2 and len(down) == 2:
            found.append((gate, up, down))
    return found


def stacked(make: Callable[..., Stack], given: Sequence[Expert], kept: bool) -> Stacks[Stack]:
    """Sort low-rank experts' factors by kind, in stacks from `make(factors, transposed, kept)`."""
    experts = of_low_rank(given)

    def stack(factors: list[Any], transposed: bool) -> Stack:
        return make(factors, transposed=transposed, kept=kept)

    return Stacks(
        into=stack([(g[1], u[1]) for g, u, _ in experts], transposed=False),
        gate=stack([(g[0],) for g, _, _ in experts], transposed=True),
        up=stack([(u[0],) for _, u, _ in experts], transposed=True),
        down=stack([(d[1],) for _, _, d in experts], transposed=False),
        out=stack([(d[0],) for _, _, d in experts], transposed=True),
    )


def trained(given: Sequence[Expert]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the trained factors of each of the three operations; empty lists if all are frozen."""
    experts = of_low_rank(given)
    into = [f for g, u, _ in experts for f in (g[1], u[1])]
    inner = [f for g, u, d in experts for f in (g[0], u[0], d[1])]
    return to_train(into), to_train(inner), to_train(d[0] for _, _, d in experts)
