"""moe_ffn by the package's second formula, in differentiable torch.

Experts compute only the tokens that are routed to them.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from fedmore.kernels.moe_ffn.reference import Expert

Linear = Callable[[Tensor], Tensor]
Act = Callable[[Tensor], Tensor]

__all__ = ["Act", "Expert", "Linear", "mix"]


def mix(
    x_TD: Tensor,
    g_TH: Tensor,
    u_TH: Tensor,
    gates_TE: Tensor,
    down: Linear,
    experts: Sequence[Expert],
    act: Act,
) -> Tensor:
    """Return the anchor-form mixture output, [T, D], in the dtype of `x_TD`.

    Args:
        x_TD: input, [T, D].
        g_TH: the base's gate activations, [T, H].
        u_TH: the base's up activations, [T, H].
        gates_TE: weights of the experts, [T, E].
        down: the base's down projection.
        experts: dense factors of every expert.
        act: the activation.

    """
    hidden_TH = act(g_TH) * u_TH
    mixed_TH, low = hidden_TH, []
    for i, ((bg, ag), (bu, au), (bd, ad)) in enumerate(experts):
        tokens = gates_TE[:, i].nonzero().squeeze(1)
        if not tokens.numel():
            continue
        x, weight = x_TD[tokens], gates_TE[tokens, i, None].to(x_TD.dtype)
        expert = act(g_TH[tokens] + x @ ag.T @ bg.T) * (u_TH[tokens] + x @ au.T @ bu.T)
        mixed_TH = mixed_TH.index_add(0, tokens, weight * (expert - hidden_TH[tokens]))
        low.append((tokens, (weight * expert) @ ad.T @ bd.T))
    y_TD = down(mixed_TH)
    for tokens, part in low:
        y_TD = y_TD.index_add(0, tokens, part)
    return y_TD
