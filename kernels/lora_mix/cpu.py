"""lora_mix on the CPU: numba loops in torch's threads for float32, plain torch for other dtypes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank import by_loops, pack
from fedmore.kernels.grouped_lowrank.factors import Change, Factor, SignTensor
from fedmore.kernels.lora_mix import torch_fallback
from fedmore.kernels.lora_mix.mixing import Device, Prepared

__all__ = ["Factor", "Prepared", "SignTensor", "lora_mix", "prepare"]


def _routed(gates_TE: Tensor) -> tuple[pack.Route, Tensor]:
    return pack.routed(gates_TE.float())


_CPU = Device(by_loops, pack.Stack, _routed)


def prepare(adapters: Sequence[Change]) -> Prepared:
    """Pack frozen adapters for repeated use; no gradient reaches their factors."""
    return _CPU.prepared(adapters, kept=True)


def lora_mix(
    y_TO: Tensor, x_TD: Tensor, gates_TE: Tensor, adapters: Sequence[Change] | Prepared
) -> Tensor:
    """Return `y_TO` plus every adapter's weighted change: a new tensor [T, O], dtype as `y_TO`.

    An adapter whose weight is exactly zero is skipped for that token: its numbers are not read, and
    the weight gets no gradient.

    Args:
        y_TO: output of the linear layer, [T, O].
        x_TD: input of the linear layer, [T, D].
        gates_TE: weights of the adapters, [T, E].
        adapters: changes (B [O, R], A [R, D]) or (D [O, D],), or what `prepare` made of them.

    """
    if not (x_TD.dtype == y_TO.dtype == torch.float32):
        plain = adapters.adapters if isinstance(adapters, Prepared) else adapters
        return torch_fallback.lora_mix(y_TO, x_TD, gates_TE, plain)
    return _CPU.lora_mix(y_TO, x_TD, gates_TE, adapters)
