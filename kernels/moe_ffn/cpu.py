"""moe_ffn on the CPU.

float32 with SiLU goes through numba loops in torch's threads; other types and activations through
plain torch, which is differentiable to any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fedmore.kernels.lora_mix.autograd import expand_add, project
from fedmore.kernels.lora_mix.factors import Factor, Signs, dense, to_train
from fedmore.kernels.lora_mix.pack import Stack, routed
from fedmore.kernels.moe_ffn import plain
from fedmore.kernels.moe_ffn.autograd import Stacks, hidden
from fedmore.kernels.moe_ffn.plain import Act, Linear

__all__ = ["Prepared", "Signs", "moe_ffn", "prepare"]

LowRank = tuple[Factor, Factor]  # B [out, R], A [R, in]
Expert = tuple[LowRank, LowRank, LowRank]  # gate, up, down


@dataclass(frozen=True)
class Prepared:
    """Experts that are not trained, packed once (again when one was written to)."""

    experts: Sequence[Expert]
    stacks: Stacks


def prepare(experts: Sequence[Expert]) -> Prepared:
    """For experts that are used often and not trained: no gradient reaches their factors."""
    return Prepared(experts, _stacks(experts, kept=True))


def moe_ffn(
    x_TD: Tensor,
    gates_TE: Tensor,
    base: tuple[Linear, Linear, Linear],
    experts: Sequence[Expert] | Prepared,
    act: Act,
) -> Tensor:
    """Anchor-form mixture output, [T, D]; `base` are the frozen gate, up and down projections.

    With every gate zero this is the base's FFN exactly. Differentiable in x, gates and factors; a
    gate of exactly zero is no routing: its expert is not looked at, and it gets no gradient.
    """
    given = experts.experts if isinstance(experts, Prepared) else experts
    gate, up, down = base
    g_TH, u_TH = gate(x_TD), up(x_TD)
    if not (is_silu(act) and x_TD.dtype == g_TH.dtype == u_TH.dtype == torch.float32):
        return plain.mix(x_TD, g_TH, u_TH, gates_TE, down, _dense(given), act)
    route, weights = routed(gates_TE.to(x_TD.dtype))
    if not len(route.tokens):
        return down(act(g_TH) * u_TH)
    stacks = experts.stacks if isinstance(experts, Prepared) else _stacks(given, kept=False)
    trained = _trained(() if isinstance(experts, Prepared) else experts)
    low = project(x_TD, route, stacks.into, trained[0])
    mixed_TH, z = hidden(g_TH, u_TH, low, weights, route, stacks, trained[1])
    return expand_add(down(mixed_TH), z, weights, route, stacks.out, trained[2])


def is_silu(act: Act) -> bool:
    """Whether an activation is SiLU (Swish), the one that the loops compute."""
    return act is silu or isinstance(act, nn.SiLU)


def _dense(experts: Sequence[Expert]) -> list[plain.Expert]:
    return [
        ((dense(bg), dense(ag)), (dense(bu), dense(au)), (dense(bd), dense(ad)))
        for (bg, ag), (bu, au), (bd, ad) in experts
    ]


def _stacks(experts: Sequence[Expert], kept: bool) -> Stacks:
    return Stacks(
        into=Stack([(g[1], u[1]) for g, u, _ in experts], transposed=False, kept=kept),
        gate=Stack([(g[0],) for g, _, _ in experts], transposed=True, kept=kept),
        up=Stack([(u[0],) for _, u, _ in experts], transposed=True, kept=kept),
        down=Stack([(d[1],) for _, _, d in experts], transposed=False, kept=kept),
        out=Stack([(d[0],) for _, _, d in experts], transposed=True, kept=kept),
    )


def _trained(experts: Sequence[Expert]) -> tuple[list[Tensor], ...]:
    """The factors in the order of the three operations, where any of them is to have a gradient."""
    into = [f for g, u, _ in experts for f in (g[1], u[1])]
    inner = [f for g, u, d in experts for f in (g[0], u[0], d[1])]
    return tuple(map(to_train, (into, inner, [d[0] for _, _, d in experts])))
