"""What is inside a mixture: gates, the layers that they weigh, and the hooks that set them.

Shape suffixes: B sequences, T tokens, D width, A arms (the public expert, then the experts).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedmore.experts.errors import ConfigError
from fedmore.experts.routing.interface import Router
from fedmore.experts.routing.memory import Memory
from fedmore.kernels.choose import choose
from fedmore.kernels.lora_mix.factors import Factor

LowRank = tuple[Factor, Factor]


class Gates:
    """The weights of the tokens in flight: set by the router, read by every layer.

    `forced` [B, A], where it is set, stands in for the router: the same weights for all tokens of
    a sequence in all layers. `copies` has every sequence run on as so many of them from the first
    routed block on; what lies below is computed once.
    """

    def __init__(self, router: Router, blocks: Sequence[int]) -> None:
        self.router, self.blocks = router, tuple(blocks)
        self.memory = Memory()
        self.weights_BTA: Tensor | None = None
        self.forced: Tensor | None = None
        self.copies = 1
        self.watch: list[Tensor] | None = None
        """Where it is a list, the weights of every decision are added to it."""

    def check(self, experts: int) -> None:
        """Raise `ConfigError` unless the router is made for so many experts and these blocks."""
        spec = self.router.spec
        decisions = 1 if self.router.shared else len(self.blocks)
        if (spec.experts, spec.layers) != (experts, decisions):
            raise ConfigError(
                f"the router is for {spec.experts} experts and {spec.layers} decisions, the "
                f"mixture has {experts} and {decisions}"
            )

    def flat(self, among: Sequence[int]) -> Tensor:
        """Weights [B * T, len(among)] of some of the experts."""
        if self.weights_BTA is None:
            raise RuntimeError("the router has not run; call the mixture's whole model")
        return self.weights_BTA[..., [i + 1 for i in among]].flatten(0, 1)

    def decide(self, x_BTD: Tensor, slot: int) -> None:
        """Have the router decide, or take what is forced."""
        if self.forced is not None:
            size = (len(self.forced), x_BTD.shape[1], self.forced.shape[1])
            weights = self.forced[:, None].expand(size).to(x_BTD.dtype)
        else:
            weights = self.router(x_BTD, slot, self.memory)
        self.weights_BTA = weights
        if self.watch is not None:
            self.watch.append(weights)

    def silence(self, x_BTD: Tensor) -> None:
        """The base alone."""
        arms = x_BTD.new_zeros(*x_BTD.shape[:2], self.router.spec.arms)
        arms[..., 0] = 1
        self.weights_BTA = arms


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
        self.moe_ffn: Any = kernel.moe_ffn
        self.experts: Any = experts if _trained(experts[0]) else kernel.prepare(experts)

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
        self.lora_mix: Any = kernel.lora_mix
        self.adapters: Any = adapters if _trained(adapters) else kernel.prepare(adapters)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The changed projection, [B, T, out]."""
        y = self.linear(x_BTD)
        gates = self.gates.flat(self.among)
        x, flat = x_BTD.flatten(0, 1), y.flatten(0, 1)
        changed: Tensor = self.lora_mix(flat, x, gates, self.adapters)
        return changed.view_as(y)


def _trained(pairs: Sequence[LowRank]) -> bool:
    """Whether these factors are to be trained: they must not be packed once and for all."""
    factors = [factor for pair in pairs for factor in pair]
    return any(isinstance(factor, Tensor) and factor.requires_grad for factor in factors)


def routing(model: Any, gates: Gates) -> None:
    """Have the router of `gates` decide in the course of every forward pass of `model`."""
    passing = Passing(model, gates)
    model.register_forward_pre_hook(passing.begin, with_kwargs=True)
    model.register_forward_hook(passing.end)
    model.get_input_embeddings().register_forward_hook(passing.embedded)
    layers = model.get_decoder().layers
    for slot, block in enumerate(gates.blocks):
        layers[block].register_forward_pre_hook(passing.entering(slot))


class Passing:
    """The hooks of one model's forward pass."""

    def __init__(self, model: Any, gates: Gates) -> None:
        self.model, self.gates = model, gates
        self._first_pass = False

    def begin(self, _model: nn.Module, _inputs: Any, named: dict[str, Any]) -> None:
        """A text begins, or goes on where a key-value cache holds its beginning."""
        ids = named.get("input_ids")
        tokens = ids if ids is not None else named.get("inputs_embeds")
        if tokens is None:
            raise ConfigError("call a mixture with input_ids= or inputs_embeds=")
        cache = named.get("past_key_values")
        cached = 0 if cache is None else int(cache.get_seq_length())
        mask, memory = named.get("attention_mask"), self.gates.memory
        if cached:
            memory.check(cache, cached)
        memory.begin(tokens.shape[1], mask, cached, tokens.device)
        memory.belongs_to(cache)
        if self.gates.router.two_pass and self.gates.forced is None:
            self._look_ahead(named)

    def end(self, _model: nn.Module, _inputs: Any, output: Any) -> None:
        """The cache that the text goes on in, if it does."""
        self.gates.memory.belongs_to(getattr(output, "past_key_values", None))

    def _look_ahead(self, named: Mapping[str, Any]) -> None:
        """The base's pass, with a cache of its own where the text goes on in one."""
        memory = self.gates.memory
        keys = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
        given = {key: named[key] for key in keys if named.get(key) is not None}
        caching = named.get("use_cache") is not False
        self._first_pass = True
        try:
            with torch.no_grad():
                found = self.model.get_decoder()(
                    **given, past_key_values=memory.cache, use_cache=caching
                )
        finally:
            self._first_pass = False
        if caching:
            memory.cache = found.past_key_values
        self.gates.router.plan(found.last_hidden_state, memory)

    def embedded(self, _module: nn.Module, _inputs: Any, embeddings_BTD: Tensor) -> None:
        """Decisions that all layers share are made here."""
        if self._first_pass:
            self.gates.silence(embeddings_BTD)
        elif self.gates.router.shared or self.gates.forced is not None:
            self.gates.decide(embeddings_BTD, 0)

    def entering(self, slot: int) -> Any:
        """The hook before a routed block."""

        def hook(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self._first_pass:
                return None
            x_BTD = inputs[0]
            if slot == 0 and self.gates.copies > 1:
                x_BTD = x_BTD.repeat_interleave(self.gates.copies, dim=0)
            if not self.gates.router.shared and self.gates.forced is None:
                self.gates.decide(x_BTD, slot)
            return (x_BTD, *inputs[1:])

        return hook
