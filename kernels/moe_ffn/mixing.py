"""moe_ffn over packed factors: what the forms of all devices have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedmore.kernels.grouped_lowrank import autograd as lowrank
from fedmore.kernels.moe_ffn.autograd import Form, Stacks, hidden
from fedmore.kernels.moe_ffn.experts import parted, stacked, trained
from fedmore.kernels.moe_ffn.torch_fallback import (
    Act,
    Added,
    Expert,
    Linear,
    added,
    mix,
    mix_hidden,
)


@dataclass(frozen=True)
class Prepared:
    """Frozen experts, packed once, and again after one was written to.

    `stacks` holds the low-rank experts, whose indices are `low`; `full` are the others.
    """

    experts: Sequence[Expert]
    stacks: Stacks[Any]
    low: list[int]
    full: list[int]


@dataclass(frozen=True)
class Device:
    """The loops or kernels of one device, its stacks, and how it lists the routed tokens.

    `fits` says whether they take these activations: x, gate and up, and the function between.
    """

    lowrank: lowrank.Form
    ffn: Form
    stack: Callable[..., Any]
    routed: Callable[[Tensor], tuple[Any, Tensor]]
    fits: Callable[[Tensor, Tensor, Tensor, Act], bool]

    def prepared(self, experts: Sequence[Expert], kept: bool) -> Prepared:
        """Stack the low-rank experts' factors; with `kept` they are packed once."""
        return Prepared(experts, stacked(self.stack, experts, kept=kept), *parted(experts))

    def moe_ffn(
        self,
        x_TD: Tensor,
        gates_TE: Tensor,
        base: tuple[Linear, Linear, Linear],
        experts: Sequence[Expert] | Prepared,
        act: Act,
    ) -> Tensor:
        """Return the anchor-form mixture output; what does not fit runs in torch's operators."""
        held = experts if isinstance(experts, Prepared) else self.prepared(experts, kept=False)
        gate, up, down = base
        g_TH, u_TH = gate(x_TD), up(x_TD)
        if not self.fits(x_TD, g_TH, u_TH, act):
            return mix(x_TD, g_TH, u_TH, gates_TE, down, held.experts, act)
        route, weights = self.routed(gates_TE[:, held.low] if held.full else gates_TE)
        into, inner, out = trained(() if held is experts else held.experts)
        z, left = None, list[Added]()
        if len(route.tokens):
            low = lowrank.project(self.lowrank, x_TD, route, held.stacks.into, into)
            mixed_TH, z = hidden(self.ffn, g_TH, u_TH, low, weights, route, held.stacks, inner)
        else:
            mixed_TH = act(g_TH) * u_TH
        if held.full:
            full, gates_TF = [held.experts[i] for i in held.full], gates_TE[:, held.full]
            hidden_TH = act(g_TH) * u_TH
            mixed_TH, left = mix_hidden(x_TD, g_TH, u_TH, hidden_TH, mixed_TH, gates_TF, full, act)
        y_TD = down(mixed_TH)
        if z is not None:
            y_TD = lowrank.expand_add(self.lowrank, y_TD, z, weights, route, held.stacks.out, out)
        return added(y_TD, left)
