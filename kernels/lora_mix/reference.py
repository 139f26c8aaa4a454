"""The specification of lora_mix: one token, one adapter at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank.factors import DenseChange, matrix_of


def lora_mix(
    y_TO: Tensor, x_TD: Tensor, gates_TE: Tensor, adapters: Sequence[DenseChange]
) -> Tensor:
    """Return `y_TO` plus every adapter's weighted change, [T, O]."""
    rows = []
    for y_O, x_D, gates_E in zip(y_TO, x_TD, gates_TE, strict=True):
        pairs = zip(gates_E, adapters, strict=True)
        rows.append(
            y_O + torch.stack([gate * (matrix_of(change) @ x_D) for gate, change in pairs]).sum(0)
        )
    return torch.stack(rows)
