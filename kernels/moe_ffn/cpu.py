"""moe_ffn on the CPU.

float32 with SiLU runs in numba loops, in torch's threads. Other dtypes and activations run in plain
torch, which is differentiable to any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_loops as low_by
from fedmore.kernels.grouped_lowrank.autograd import expand_add, project
from fedmore.kernels.grouped_lowrank.factors import SignTensor
from fedmore.kernels.grouped_lowrank.pack import Stack, routed
from fedmore.kernels.moe_ffn import by_loops, torch_fallback
from fedmore.kernels.moe_ffn.autograd import hidden
from fedmore.kernels.moe_ffn.by_loops import Stacks
from fedmore.kernels.moe_ffn.experts import Expert, dense_experts, is_silu, stacked, trained
from fedmore.kernels.moe_ffn.torch_fallback import Act, Linear

__all__ = ["Prepared", "SignTensor", "moe_ffn", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Frozen experts, packed once, and again after one was written to."""

    experts: Sequence[Expert]
    stacks: Stacks


def prepare(experts: Sequence[Expert]) -> Prepared:
    """Pack frozen experts for repeated use; no gradient reaches their factors."""
    return Prepared(experts, stacked(Stack, experts, kept=True))


def moe_ffn(
    x_TD: Tensor,
    gates_TE: Tensor,
    base: tuple[Linear, Linear, Linear],
    experts: Sequence[Expert] | Prepared,
    act: Act,
) -> Tensor:
    """Return the anchor-form mixture output, [T, D], in the dtype of `x_TD`.

    If all gates are zero, the result is exactly the base's FFN. It is differentiable in x, gates
    and factors. An expert whose gate is exactly zero is skipped for that token: its numbers are not
    read, and the gate gets no gradient.

    Args:
        x_TD: input, [T, D].
        gates_TE: weights of the experts, [T, E]; the public expert has the rest up to 1.
        base: the frozen gate, up and down projections.
        experts: low-rank factors of every expert, or what `prepare` made of them.
        act: the activation.

    """
    given = experts.experts if isinstance(experts, Prepared) else experts
    gate, up, down = base
    g_TH, u_TH = gate(x_TD), up(x_TD)
    if not (is_silu(act) and x_TD.dtype == g_TH.dtype == u_TH.dtype == torch.float32):
        return torch_fallback.mix(x_TD, g_TH, u_TH, gates_TE, down, dense_experts(given), act)
    route, weights = routed(gates_TE.to(x_TD.dtype))
    if not len(route.tokens):
        return down(act(g_TH) * u_TH)
    stacks = experts.stacks if isinstance(experts, Prepared) else stacked(Stack, given, kept=False)
    into, inner, out = trained(() if isinstance(experts, Prepared) else given)
    low = project(low_by, x_TD, route, stacks.into, into)
    mixed_TH, z = hidden(by_loops, g_TH, u_TH, low, weights, route, stacks, inner)
    return expand_add(low_by, down(mixed_TH), z, weights, route, stacks.out, out)
