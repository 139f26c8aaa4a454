"""A block's FFN in a mixture, for every form of FFN (`experts/base/ffn.py`).

A gated FFN goes through the kernel `moe_ffn`. An FFN of two projections, ``F = W2 phi(W1 x)``, is
mixed in the same anchor form, ``y = F + sum g_i (F_i - F)``. With ``h = phi(W1 x)`` and
``h_i = phi((W1 + B1 A1) x)`` this is ``W2 (h + sum g_i (h_i - h)) + sum g_i B2 (A2 h_i)``. So the
base's two products are computed once per token, however many experts are active.

Shape suffixes: B sequences, T tokens, D width, H hidden width, E experts.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fedmore.experts.base.ffn import Layout, inner_of, layout_of
from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.layers import MixtureFFN, is_trained
from fedmore.experts.mixture.routing.compiling import apart
from fedmore.experts.mixture.routing.state import RoutingState
from fedmore.kernels.dispatch import choose
from fedmore.kernels.grouped_lowrank.factors import Change

Changes = Mapping[int, Mapping[str, Change]]  # expert index -> projection -> (B, A) or (D,)


def mixture_ffn(ffn: nn.Module, gates: RoutingState, changes: Changes) -> nn.Module:
    """Wrap an FFN with the experts that change it; raises `ConfigError` for an unknown form."""
    layout = layout_of(ffn)
    if layout is None or any(set(change) != set(layout.names) for change in changes.values()):
        raise ConfigError(f"the experts do not fit the base's {type(ffn).__name__}")
    if layout.form == "gated":
        return MixtureFFN(ffn, gates, {i: dict(change) for i, change in changes.items()})
    return MixtureTwoProjections(ffn, layout, gates, changes)


class MixtureTwoProjections(nn.Module):
    """An FFN of two projections with the experts that change it."""

    def __init__(
        self, ffn: nn.Module, layout: Layout, gates: RoutingState, changes: Changes
    ) -> None:
        super().__init__()
        self.ffn, self.gates, self.among = ffn, gates, list(changes)
        self.layout = layout
        self.first, self.second = layout.names
        pairs = [(change[self.first], change[self.second]) for change in changes.values()]
        kernel = choose("lora_mix", pairs[0][0][0].device)
        self.lora_mix: Any = apart(kernel.lora_mix)
        self.weights: Any = apart(RoutingState.flat)
        as_it_is = is_trained(pairs[0])
        self.experts: list[tuple[Any, Any]] = [
            ([into], [out]) if as_it_is else (kernel.prepare([into]), kernel.prepare([out]))
            for into, out in pairs
        ]

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Compute the block's FFN output, [B, T, D]."""
        x = x_BTD.flatten(0, 1)
        weights_TE = self.weights(self.gates, self.among).to(x.dtype)
        read, inner = getattr(self.ffn, self.first)(x), inner_of(self.ffn, self.layout)
        hidden_TH = inner(read)
        mixed_TH, left = hidden_TH, []
        for index, (into, out) in enumerate(self.experts):
            rows = weights_TE[:, index].nonzero().squeeze(1)
            if not rows.numel():
                continue
            weight = weights_TE[rows, index, None]
            all_of_it = weight.new_ones(weight.shape)
            own = inner(self.lora_mix(read[rows], x[rows], all_of_it, into))
            mixed_TH = mixed_TH.index_add(0, rows, weight * (own - hidden_TH[rows]))
            left.append((rows, own, weight, out))
        y: Tensor = getattr(self.ffn, self.second)(mixed_TH)
        for rows, own, weight, out in left:
            change = self.lora_mix(y.new_zeros(len(rows), y.shape[1]), own, weight, out)
            y = y.index_add(0, rows, change)
        return y.view_as(x_BTD)
