"""moe_ffn on an NVIDIA GPU: Triton kernels for float32, bfloat16 and float16 with SiLU.

It has the same functions as `cpu`.
"""

from collections.abc import Sequence

from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_triton as low_by
from fedmore.kernels.grouped_lowrank.factors import SignTensor, check_dtype
from fedmore.kernels.moe_ffn import by_triton
from fedmore.kernels.moe_ffn.experts import is_silu
from fedmore.kernels.moe_ffn.mixing import Device, Prepared
from fedmore.kernels.moe_ffn.torch_fallback import Act, Expert, Linear

__all__ = ["Prepared", "SignTensor", "moe_ffn", "prepare"]


def _fits(x_TD: Tensor, g_TH: Tensor, u_TH: Tensor, act: Act) -> bool:
    """Whether this is SiLU; raises `ValueError` for a dtype that Triton's form does not take."""
    if not is_silu(act):
        return False
    check_dtype("moe_ffn", x_TD, g_TH, u_TH)
    return True


_GPU = Device(low_by, by_triton, low_by.Stack, low_by.routed, _fits)


def prepare(experts: Sequence[Expert]) -> Prepared:
    """Pack frozen experts for repeated use; no gradient reaches their factors."""
    return _GPU.prepared(experts, kept=True)


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
    return _GPU.moe_ffn(x_TD, gates_TE, base, experts, act)
