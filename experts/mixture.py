"""The mixture: base + experts + adapters + router in one model.

Domain experts and the FFN part of language adapters go through `moe_ffn`, the attention part of
adapters through `lora_mix`. Every weight at zero gives the base exactly. The experts are frozen:
their factors are prepared once, and gradients go to the router's weights and to the inputs.

Shape suffixes: B sequences, T tokens, D width, E experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import Factors, numbers
from fedmore.experts.lowrank import replace, share
from fedmore.experts.router import Router
from fedmore.kernels.choose import choose

LowRank = tuple[Tensor, Tensor]


class Gates:
    """The weights of the tokens in flight, [B, T, E]: set by the router, read by every layer."""

    def __init__(self) -> None:
        self.weights: Tensor | None = None

    def flat(self, among: Sequence[int]) -> Tensor:
        """Weights [B * T, len(among)] of some of the experts."""
        if self.weights is None:
            raise RuntimeError("the router has not run; call the mixture's whole model")
        return self.weights[..., list(among)].flatten(0, 1)


class MixtureFFN(nn.Module):
    """One block's FFN with the experts that change it."""

    def __init__(self, mlp: Any, gates: Gates, changes: Mapping[int, dict[str, LowRank]]) -> None:
        super().__init__()
        self.mlp, self.gates, self.among = mlp, gates, list(changes)
        experts = [
            (change["gate_proj"], change["up_proj"], change["down_proj"])
            for change in changes.values()
        ]
        kernel = choose("moe_ffn", experts[0][0][0].device)
        self.moe_ffn, self.experts = kernel.moe_ffn, kernel.prepare(experts)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The block's FFN output, [B, T, D]."""
        mlp = self.mlp
        base = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        x = x_BTD.flatten(0, 1)
        gates = self.gates.flat(self.among)
        y: Tensor = self.moe_ffn(x, gates, base, self.experts, mlp.act_fn)
        return y.view_as(x_BTD)


class MixtureLinear(nn.Module):
    """One attention projection with the adapters that change it."""

    def __init__(self, linear: nn.Module, gates: Gates, changes: Mapping[int, LowRank]) -> None:
        super().__init__()
        self.linear, self.gates, self.among = linear, gates, list(changes)
        adapters = list(changes.values())
        kernel = choose("lora_mix", adapters[0][0].device)
        self.lora_mix, self.adapters = kernel.lora_mix, kernel.prepare(adapters)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The changed projection, [B, T, out]."""
        y = self.linear(x_BTD)
        gates = self.gates.flat(self.among)
        x, flat = x_BTD.flatten(0, 1), y.flatten(0, 1)
        changed: Tensor = self.lora_mix(flat, x, gates, self.adapters)
        return changed.view_as(y)


@dataclass
class Mixture:
    """An assembled mixture: `model` is a Hugging Face causal LM with the experts built in."""

    model: Any
    experts: dict[str, Factors]
    router: Router
    gates: Gates

    @property
    def params(self) -> int:
        """Parameters of base, experts and router."""
        router = sum(b.numel() for b in getattr(self.router, "buffers", tuple)())
        return int(self.base_params + sum(map(numbers, self.experts.values())) + router)

    @property
    def base_params(self) -> int:
        """Parameters of the base alone."""
        return int(self.model.num_parameters())

    def active_params(self, top_k: int) -> int:
        """Parameters that one token uses at most: the base and the `top_k` largest experts."""
        sizes = sorted(map(numbers, self.experts.values()), reverse=True)
        return self.base_params + sum(sizes[:top_k])


def assemble(model: Any, experts: Mapping[str, Factors], router: Router) -> Mixture:
    """Build the mixture over a copy of `model` (weights shared, `model` itself unchanged).

    `experts` holds each one's change of every site, scale folded in; their order is the router's.
    """
    gates = Gates()
    copied = share(model)
    device = model.device
    moved = {
        name: {p: (b.to(device, model.dtype), a.to(device, model.dtype)) for p, (b, a) in f.items()}
        for name, f in experts.items()
    }
    for parent, changes in _by_module(moved).items():
        _install(copied, parent, changes, gates)

    def route(_module: nn.Module, _inputs: Any, embeddings: Tensor) -> None:
        gates.weights = router(embeddings)

    copied.get_input_embeddings().register_forward_hook(route)
    copied.register_forward_pre_hook(_refuse_cache, with_kwargs=True)
    copied.config.use_cache = copied.generation_config.use_cache = False
    return Mixture(copied, dict(experts), router, gates)


def _refuse_cache(_model: nn.Module, _inputs: Any, named: dict[str, Any]) -> None:
    """The router sums over the whole text; with a cache it would see the last token alone."""
    cache = named.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise ConfigError("a mixture does not work with a key-value cache yet: use_cache=False")


def _by_module(experts: Mapping[str, Factors]) -> dict[str, dict[int, dict[str, LowRank]]]:
    """`{parent path: {expert index: {projection: (B, A)}}}`."""
    grouped: dict[str, dict[int, dict[str, LowRank]]] = {}
    for index, factors in enumerate(experts.values()):
        for path, pair in factors.items():
            parent, _, name = path.rpartition(".")
            grouped.setdefault(parent, {}).setdefault(index, {})[name] = pair
    return grouped


def _install(model: Any, parent: str, changes: dict[int, dict[str, LowRank]], gates: Gates) -> None:
    module = model.get_submodule(parent)
    if parent.endswith(".mlp"):
        replace(model, parent, MixtureFFN(module, gates, changes))
        return
    for name in {name for change in changes.values() for name in change}:
        among = {i: change[name] for i, change in changes.items() if name in change}
        linear = module.get_submodule(name)
        replace(model, f"{parent}.{name}", MixtureLinear(linear, gates, among))
