"""moe_ffn on an NVIDIA GPU: Triton kernels for float32, bfloat16 and float16 with SiLU.

It has the same functions as `cpu`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_triton as low_by
from fedmore.kernels.grouped_lowrank.autograd import expand_add, project
from fedmore.kernels.grouped_lowrank.by_triton import Stack, routed
from fedmore.kernels.grouped_lowrank.factors import SignTensor, check_dtype
from fedmore.kernels.moe_ffn import by_triton
from fedmore.kernels.moe_ffn.autograd import hidden
from fedmore.kernels.moe_ffn.by_triton import Stacks
from fedmore.kernels.moe_ffn.experts import Expert, dense_experts, is_silu, stacked, trained
from fedmore.kernels.moe_ffn.torch_fallback import Act, Linear, mix

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
    """Do as `cpu.moe_ffn`; activations other than SiLU run in torch's operators.

    Raises `ValueError` for a dtype that Triton's form does not take.
    """
    given = experts.experts if isinstance(experts, Prepared) else experts
    gate, up, down = base
    g_TH, u_TH = gate(x_TD), up(x_TD)
    if not is_silu(act):
        return mix(x_TD, g_TH, u_TH, gates_TE, down, dense_experts(given), act)
    check_dtype("moe_ffn", x_TD, g_TH, u_TH)
    route, weights = routed(gates_TE)
    if not len(route.tokens):
        return down(act(g_TH) * u_TH)
    kept = isinstance(experts, Prepared)
    stacks = experts.stacks if isinstance(experts, Prepared) else stacked(Stack, given, kept=False)
    into, inner, out = trained(() if kept else given)
    low = project(low_by, x_TD, route, stacks.into, into)
    mixed_TH, z = hidden(by_triton, g_TH, u_TH, low, weights, route, stacks, inner)
    return expand_add(low_by, down(mixed_TH), z, weights, route, stacks.out, out)
