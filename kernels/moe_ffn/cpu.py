"""moe_ffn by the cost identity, in differentiable torch; experts see only their own tokens."""

from collections.abc import Callable, Sequence

from torch import Tensor

from fedmore.kernels.moe_ffn.reference import Expert

Linear = Callable[[Tensor], Tensor]


def moe_ffn(
    x_TD: Tensor,
    gates_TE: Tensor,
    base: tuple[Linear, Linear, Linear],
    experts: Sequence[Expert],
    act: Callable[[Tensor], Tensor],
) -> Tensor:
    """Anchor-form mixture output, [T, D]; `base` are the frozen gate, up and down projections.

    With every gate zero this is the base's FFN exactly. Differentiable in x, gates and factors.
    """
    gate, up, down = base
    g_TH, u_TH = gate(x_TD), up(x_TD)
    hidden_TH = act(g_TH) * u_TH
    mixed_TH, low = hidden_TH, None
    for i, ((bg, ag), (bu, au), (bd, ad)) in enumerate(experts):
        tokens = gates_TE[:, i].nonzero().squeeze(1)
        if not tokens.numel():
            continue
        x, weight = x_TD[tokens], gates_TE[tokens, i, None].to(x_TD.dtype)
        expert = act(g_TH[tokens] + x @ ag.T @ bg.T) * (u_TH[tokens] + x @ au.T @ bu.T)
        mixed_TH = mixed_TH.index_add(0, tokens, weight * (expert - hidden_TH[tokens]))
        part = (weight * expert) @ ad.T @ bd.T
        low = (x_TD * 0 if low is None else low).index_add(0, tokens, part)
    y_TD = down(mixed_TH)
    return y_TD if low is None else y_TD + low
