"""The specification of moe_ffn: every expert made dense, one token at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmore.kernels.grouped_lowrank.factors import DenseChange, matrix_of

Expert = tuple[DenseChange, DenseChange, DenseChange]  # gate, up, down


def moe_ffn(
    x_TD: Tensor,
    gates_TE: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    experts: Sequence[Expert],
    act: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the anchor-form mixture output, [T, D]."""

    def ffn(x_D: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return down @ (act(gate @ x_D) * (up @ x_D))

    rows = []
    for x_D, gates_E in zip(x_TD, gates_TE, strict=True):
        public = ffn(x_D, *weights)
        y = public
        for gate, expert in zip(gates_E, experts, strict=True):
            g, u, d = (w + matrix_of(change) for w, change in zip(weights, expert, strict=True))
            y = y + gate * (ffn(x_D, g, u, d) - public)
        rows.append(y)
    return torch.stack(rows)
