"""lora_mix in differentiable torch; an adapter computes only the tokens that are routed to it."""

from collections.abc import Sequence

from torch import Tensor

from fedmore.kernels.grouped_lowrank.factors import Change, applied


def lora_mix(y_TO: Tensor, x_TD: Tensor, gates_TE: Tensor, adapters: Sequence[Change]) -> Tensor:
    """Return `y_TO` plus every adapter's weighted change, a new tensor [T, O]."""
    for i, change in enumerate(adapters):
        tokens = gates_TE[:, i].nonzero().squeeze(1)
        if tokens.numel():
            weight = gates_TE[tokens, i, None].to(x_TD.dtype)
            y_TO = y_TO.index_add(0, tokens, weight * applied(change, x_TD[tokens]))
    return y_TO
