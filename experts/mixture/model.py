"""The mixture: base + experts + adapters + router in one model.

Changes of a gated FFN go through the kernel `moe_ffn`, those of an FFN with two projections through
`ffn_layer`, and those of attention projections through `lora_mix`. If all weights are zero, the
result is exactly the base's. Experts are frozen unless the mixture is `trainable`: their factors
are packed once, and gradients reach the router's weights and the inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedmore.experts.factors import Factors, Kept, mapped, num_parameters
from fedmore.experts.low_rank_linear import replace, share
from fedmore.experts.mixture.ffn_layer import mixture_ffn
from fedmore.experts.mixture.layers import MixtureLinear
from fedmore.experts.mixture.routing.hooks import routing
from fedmore.experts.mixture.routing.state import RoutingState
from fedmore.experts.quantized import dequantize
from fedmore.experts.routers.base import Router
from fedmore.experts.spec import FFN_PARENTS, layer_of
from fedmore.kernels.grouped_lowrank.factors import Change


@dataclass
class Mixture:
    """An assembled mixture: `model` is a Hugging Face causal LM with the experts built in.

    `trained` has the experts' factors that the model uses, if they are trained.
    """

    model: Any
    experts: dict[str, Kept]
    router: Router
    gates: RoutingState
    trained: dict[str, Factors] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """Number of parameters of base, experts and router."""
        router = sum(tensor.numel() for tensor in self.router.state_dict().values())
        return int(self.base_params + sum(map(num_parameters, self.experts.values())) + router)

    @property
    def base_params(self) -> int:
        """Number of parameters of the base alone."""
        return int(self.model.num_parameters())

    def active_params(self, top_k: int) -> int:
        """Most parameters that a token uses: those of the base and the `top_k` largest experts.

        If `top_k` is 0, all experts count.
        """
        sizes = sorted(map(num_parameters, self.experts.values()), reverse=True)
        return self.base_params + sum(sizes[: top_k or None])


def routed_blocks(experts: Mapping[str, Kept]) -> tuple[int, ...]:
    """Indices of the blocks that any of the experts changes."""
    return tuple(sorted({layer_of(path) for factors in experts.values() for path in factors}))


def assemble(
    model: Any, experts: Mapping[str, Kept], router: Router, trainable: bool = False
) -> Mixture:
    """Build the mixture over a copy of `model` (weights shared, `model` itself unchanged).

    `experts` has each expert's change of every target module, with its scale folded in, in the
    router's order. With `trainable`, copies of them are trained together with the router. Raises
    `ConfigError` if the router is for another number of experts or blocks.
    """
    blocks = routed_blocks(experts)
    gates = RoutingState(router, blocks)
    gates.check(len(experts))
    copied = share(model)
    trained = {name: _to_train(kept, model) for name, kept in experts.items() if trainable}
    used: Mapping[str, Kept] = trained or {
        name: _moved(kept, model) for name, kept in experts.items()
    }
    for parent, changes in _by_module(used).items():
        _install(copied, parent, changes, gates)
    router.to(model.device)
    routing(copied, gates)
    return Mixture(copied, dict(experts), router, gates, trained)


def _moved(kept: Kept, model: Any) -> Kept:
    """Move the factors to the model's device and dtype."""
    place = model.device, model.dtype
    return {path: _moved_change(change, *place) for path, change in kept.items()}


def _moved_change(change: Change, device: torch.device, dtype: torch.dtype) -> Change:
    if len(change) == 1:
        return (change[0].to(device, dtype),)
    return change[0].to(device, dtype), change[1].to(device, dtype)


def _to_train(kept: Kept, model: Any) -> Factors:
    """Copy the factors to the model's device, with gradients."""
    there = dequantize(_moved(kept, model))
    return mapped(there, lambda factor: factor.detach().clone().requires_grad_())


def _by_module(experts: Mapping[str, Kept]) -> dict[str, dict[int, dict[str, Change]]]:
    """`{parent path: {expert index: {projection: change}}}`."""
    grouped: dict[str, dict[int, dict[str, Change]]] = {}
    for index, factors in enumerate(experts.values()):
        for path, pair in factors.items():
            parent, _, name = path.rpartition(".")
            grouped.setdefault(parent, {}).setdefault(index, {})[name] = pair
    return grouped


def _install(
    model: Any, parent: str, changes: dict[int, dict[str, Change]], gates: RoutingState
) -> None:
    module: nn.Module = model.get_submodule(parent)
    if parent.rpartition(".")[2] in FFN_PARENTS:
        replace(model, parent, mixture_ffn(module, gates, changes))
        return
    for name in {name for change in changes.values() for name in change}:
        among = {i: change[name] for i, change in changes.items() if name in change}
        linear = module.get_submodule(name)
        replace(model, f"{parent}.{name}", MixtureLinear(linear, gates, among))
