"""lora_mix on an NVIDIA GPU: Triton kernels for float32, bfloat16 and float16.

It has the same functions as `cpu`.
"""

from collections.abc import Sequence

from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_triton
from fedmore.kernels.grouped_lowrank.by_triton import Stack, routed
from fedmore.kernels.grouped_lowrank.factors import Change, Factor, SignTensor, check_dtype
from fedmore.kernels.lora_mix.mixing import Device, Prepared

__all__ = ["Factor", "Prepared", "SignTensor", "lora_mix", "prepare"]

_GPU = Device(by_triton, Stack, routed)


def prepare(adapters: Sequence[Change]) -> Prepared:
    """Pack frozen adapters for repeated use; no gradient reaches their factors."""
    return _GPU.prepared(adapters, kept=True)


def lora_mix(
    y_TO: Tensor, x_TD: Tensor, gates_TE: Tensor, adapters: Sequence[Change] | Prepared
) -> Tensor:
    """Do as `cpu.lora_mix`; raises `ValueError` for a dtype that Triton's form does not take."""
    check_dtype("lora_mix", x_TD, y_TO)
    return _GPU.lora_mix(y_TO, x_TD, gates_TE, adapters)
