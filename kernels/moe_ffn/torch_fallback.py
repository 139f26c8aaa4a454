"""moe_ffn by the package's second formula, in differentiable torch.

Experts compute only the tokens that are routed to them. Experts with full-size matrices are always
computed here, as dense products of these tokens.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from fedmore.kernels.grouped_lowrank.factors import Change, applied

Expert = tuple[Change, Change, Change]  # gate, up, down
Linear = Callable[[Tensor], Tensor]
Act = Callable[[Tensor], Tensor]
Added = tuple[Tensor, Tensor]  # token indices [n], what is added to their outputs [n, D]

__all__ = ["Act", "Expert", "Linear", "added", "mix", "mix_hidden"]


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
        experts: changes of every expert.
        act: the activation.

    """
    hidden_TH = act(g_TH) * u_TH
    mixed_TH, left = mix_hidden(x_TD, g_TH, u_TH, hidden_TH, hidden_TH, gates_TE, experts, act)
    return added(down(mixed_TH), left)


def mix_hidden(
    x_TD: Tensor,
    g_TH: Tensor,
    u_TH: Tensor,
    hidden_TH: Tensor,
    mixed_TH: Tensor,
    gates_TE: Tensor,
    experts: Sequence[Expert],
    act: Act,
) -> tuple[Tensor, list[Added]]:
    """Return `mixed_TH` plus every ``g_i (h_i - h)``, and the experts' own parts of the outputs.

    The arguments are those of `mix`; `hidden_TH` has the base's hidden activations, `mixed_TH`
    their mixture so far.
    """
    left = []
    for i, (gate, up, down) in enumerate(experts):
        tokens = gates_TE[:, i].nonzero().squeeze(1)
        if not tokens.numel():
            continue
        x, weight = x_TD[tokens], gates_TE[tokens, i, None].to(x_TD.dtype)
        own = act(g_TH[tokens] + applied(gate, x)) * (u_TH[tokens] + applied(up, x))
        mixed_TH = mixed_TH.index_add(0, tokens, weight * (own - hidden_TH[tokens]))
        left.append((tokens, applied(down, weight * own)))
    return mixed_TH, left


def added(y_TD: Tensor, left: Sequence[Added]) -> Tensor:
    """Return `y_TD` plus the experts' own parts of it."""
    for tokens, part in left:
        y_TD = y_TD.index_add(0, tokens, part)
    return y_TD
