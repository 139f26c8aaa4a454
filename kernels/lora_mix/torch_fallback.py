"""lora_mix in differentiable torch; an adapter computes only the tokens that are routed to it."""

from collections.abc import Sequence

from torch import Tensor

from fedmore.kernels.lora_mix.reference import LowRank


def lora_mix(y_TO: Tensor, x_TD: Tensor, gates_TE: Tensor, adapters: Sequence[LowRank]) -> Tensor:
    """Return `y_TO` plus every adapter's weighted change, a new tensor [T, O]."""
    for i, (b, a) in enumerate(adapters):
        tokens = gates_TE[:, i].nonzero().squeeze(1)
        if tokens.numel():
            weight = gates_TE[tokens, i, None].to(x_TD.dtype)
            y_TO = y_TO.index_add(0, tokens, weight * (x_TD[tokens] @ a.T @ b.T))
    return y_TO
