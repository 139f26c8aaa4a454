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
from fedmore.kernels.moe_ffn.experts import is_silu, parted, stacked, trained
from fedmore.kernels.moe_ffn.torch_fallback import (
    Act,
    Added,
    Expert,
    Linear,
    added,
    mix,
    mix_hidden,
)

__all__ = ["Prepared", "SignTensor", "moe_ffn", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Frozen experts, packed once, and again after one was written to."""

    experts: Sequence[Expert]
    stacks: Stacks
    low: list[int]
    full: list[int]


def prepare(experts: Sequence[Expert]) -> Prepared:
    """Pack frozen experts for repeated use; no gradient reaches their factors."""
    return _prepared(experts, kept=True)


def _prepared(experts: Sequence[Expert], kept: bool) -> Prepared:
    return Prepared(experts, stacked(Stack, experts, kept=kept), *parted(experts))


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
    held = experts if isinstance(experts, Prepared) else _prepared(experts, kept=False)
    live = () if isinstance(experts, Prepared) else experts
    gate, up, down = base
    g_TH, u_TH = gate(x_TD), up(x_TD)
    if not is_silu(act):
        return mix(x_TD, g_TH, u_TH, gates_TE, down, held.experts, act)
    check_dtype("moe_ffn", x_TD, g_TH, u_TH)
    gates_TL = gates_TE[:, held.low] if held.full else gates_TE
    route, weights = routed(gates_TL)
    into, inner, out = trained(live)
    z, left = None, list[Added]()
    if len(route.tokens):
        low = project(low_by, x_TD, route, held.stacks.into, into)
        mixed_TH, z = hidden(by_triton, g_TH, u_TH, low, weights, route, held.stacks, inner)
    else:
        mixed_TH = act(g_TH) * u_TH
    if held.full:
        full, gates_TF = [held.experts[i] for i in held.full], gates_TE[:, held.full]
        hidden_TH = act(g_TH) * u_TH
        mixed_TH, left = mix_hidden(x_TD, g_TH, u_TH, hidden_TH, mixed_TH, gates_TF, full, act)
    y_TD = down(mixed_TH)
    if z is not None:
        y_TD = expand_add(low_by, y_TD, z, weights, route, held.stacks.out, out)
    return added(y_TD, left)
