"""The layers of a mixture: a block's FFN and attention projections, with their experts.

Shape suffixes: B sequences, T tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.routing.compiling import apart
from fedmore.experts.mixture.routing.state import RoutingState
from fedmore.kernels.dispatch import choose
from fedmore.kernels.grouped_lowrank.factors import Change


class MixtureFFN(nn.Module):
    """A block's gated FFN with the experts that change it."""

    def __init__(
        self, mlp: Any, gates: RoutingState, changes: Mapping[int, dict[str, Change]]
    ) -> None:
        super().__init__()
        self.mlp, self.gates, self.among = mlp, gates, list(changes)
        experts = [
            (change["gate_proj"], change["up_proj"], change["down_proj"])
            for change in changes.values()
        ]
        kernel = choose("moe_ffn", experts[0][0][0].device)
        self.moe_ffn: Any = apart(kernel.moe_ffn)
        self.weights: Any = apart(RoutingState.flat)
        self.experts: Any = experts if is_trained(experts[0]) else kernel.prepare(experts)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Compute the block's FFN output, [B, T, D]."""
        mlp = self.mlp
        base = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        x = x_BTD.flatten(0, 1)
        gates = self.weights(self.gates, self.among)
        y: Tensor = self.moe_ffn(x, gates, base, self.experts, mlp.act_fn)
        return y.view_as(x_BTD)


class MixtureLinear(nn.Module):
    """One attention projection with the adapters that change it."""

    def __init__(
        self, linear: nn.Module, gates: RoutingState, changes: Mapping[int, Change]
    ) -> None:
        super().__init__()
        self.linear, self.gates, self.among = linear, gates, list(changes)
        adapters = list(changes.values())
        kernel = choose("lora_mix", adapters[0][0].device)
        self.lora_mix: Any = apart(kernel.lora_mix)
        self.weights: Any = apart(RoutingState.flat)
        self.adapters: Any = adapters if is_trained(adapters) else kernel.prepare(adapters)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Compute the changed projection, [B, T, out]."""
        y = self.linear(x_BTD)
        gates = self.weights(self.gates, self.among)
        x, flat = x_BTD.flatten(0, -2), y.flatten(0, -2)
        if len(x) != len(gates):
            raise ConfigError(f"a projection that sees {len(x)} rows of {len(gates)} tokens")
        changed: Tensor = self.lora_mix(flat, x, gates, self.adapters)
        return changed.view_as(y)


def is_trained(pairs: Sequence[Change]) -> bool:
    """Whether these factors are trained; packed copies would miss their changes."""
    factors = [factor for pair in pairs for factor in pair]
    return any(isinstance(factor, Tensor) and factor.requires_grad for factor in factors)
