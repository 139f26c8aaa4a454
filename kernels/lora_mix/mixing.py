"""lora_mix over packed factors: what the forms of all devices have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedmore.kernels.grouped_lowrank.autograd import Form, expand_add, project
from fedmore.kernels.grouped_lowrank.factors import Change, LowRank, is_low_rank, to_train
from fedmore.kernels.lora_mix import torch_fallback


@dataclass(frozen=True)
class Prepared:
    """Frozen adapters, packed once, and again after one was written to.

    `b` and `a` are stacks of the low-rank adapters, whose indices are `low`; `full` are the others.
    """

    adapters: Sequence[Change]
    b: Any
    a: Any
    low: list[int]
    full: list[int]


@dataclass(frozen=True)
class Device:
    """The loops or kernels of one device, its stacks, and how it lists the routed tokens."""

    form: Form
    stack: Callable[..., Any]
    routed: Callable[[Tensor], tuple[Any, Tensor]]

    def prepared(self, adapters: Sequence[Change], kept: bool) -> Prepared:
        """Stack the low-rank adapters' factors; with `kept` they are packed once."""
        low = [i for i, change in enumerate(adapters) if is_low_rank(change)]
        full = [i for i in range(len(adapters)) if i not in low]
        pairs = list[LowRank](filter(is_low_rank, adapters))
        b = self.stack([(b,) for b, _ in pairs], transposed=True, kept=kept)
        a = self.stack([(a,) for _, a in pairs], transposed=False, kept=kept)
        return Prepared(adapters, b, a, low, full)

    def lora_mix(
        self,
        y_TO: Tensor,
        x_TD: Tensor,
        gates_TE: Tensor,
        adapters: Sequence[Change] | Prepared,
    ) -> Tensor:
        """Add every adapter's weighted change to `y_TO`; full-size ones by torch's operators."""
        held = adapters if isinstance(adapters, Prepared) else self.prepared(adapters, kept=False)
        if held.full:
            full, gates_TF = [held.adapters[i] for i in held.full], gates_TE[:, held.full]
            y_TO = torch_fallback.lora_mix(y_TO, x_TD, gates_TF, full)
            gates_TE = gates_TE[:, held.low]
        route, weights = self.routed(gates_TE)
        if not len(route.tokens):
            return y_TO
        live = list[LowRank](() if held is adapters else filter(is_low_rank, held.adapters))
        low = project(self.form, x_TD, route, held.a, to_train(a for _, a in live))
        return expand_add(
            self.form, y_TO, low, weights, route, held.b, to_train(b for b, _ in live)
        )
