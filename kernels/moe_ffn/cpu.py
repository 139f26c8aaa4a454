"""moe_ffn on the CPU.

float32 with SiLU runs in numba loops, in torch's threads. Other dtypes and activations run in plain
torch, which is differentiable to any order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_loops as low_by
from fedmore.kernels.grouped_lowrank import pack
from fedmore.kernels.grouped_lowrank.factors import SignTensor
from fedmore.kernels.moe_ffn import by_loops
from fedmore.kernels.moe_ffn.experts import is_silu
from fedmore.kernels.moe_ffn.mixing import Device, Prepared
from fedmore.kernels.moe_ffn.torch_fallback import Act, Expert, Linear

__all__ = ["Prepared", "SignTensor", "moe_ffn", "prepare"]


def _fits(x_TD: Tensor, g_TH: Tensor, u_TH: Tensor, act: Act) -> bool:
    return is_silu(act) and x_TD.dtype == g_TH.dtype == u_TH.dtype == torch.float32


def _routed(gates_TE: Tensor) -> tuple[pack.Route, Tensor]:
    return pack.routed(gates_TE.float())


_CPU = Device(low_by, by_loops, pack.Stack, _routed, _fits)


def prepare(experts: Sequence[Expert]) -> Prepared:
    """Pack frozen experts for repeated use; no gradient reaches their factors."""
    return _CPU.prepared(experts, kept=True)


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
        experts: changes of every expert, or what `prepare` made of them.
        act: the activation.

    """
    return _CPU.moe_ffn(x_TD, gates_TE, base, experts, act)
