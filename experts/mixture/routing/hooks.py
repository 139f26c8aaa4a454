"""The hooks that let a router decide during every forward pass of a model.

They are at the decoder, through which every call of a model passes: with arguments by position or
by name, with embeddings, from `generate` and from a pipeline.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedmore.experts.base.blocks import blocks_of
from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.routing.compiling import apart
from fedmore.experts.mixture.routing.state import Call, RoutingState
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.inputs import read_inputs

HANDED_ON = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")


def routing(model: Any, gates: RoutingState) -> None:
    """Install hooks that let the router of `gates` decide in every forward pass of `model`."""
    decoder = model.get_decoder()
    passing = RoutingHooks(decoder, gates)

    def hook(function: Callable[..., Any], *more: Any) -> Callable[..., Any]:
        # A partial, unlike a closure, is copied together with the model.
        return functools.partial(apart(function), passing, *more)

    decoder.register_forward_pre_hook(hook(RoutingHooks.begin), with_kwargs=True)
    decoder.register_forward_hook(hook(RoutingHooks.end))
    model.get_input_embeddings().register_forward_hook(hook(RoutingHooks.embedded))
    _, blocks = blocks_of(model)
    for slot, block in enumerate(gates.blocks):
        blocks[block].register_forward_pre_hook(hook(RoutingHooks.entering, slot))


class RoutingHooks:
    """The hooks of one model's forward pass."""

    def __init__(self, decoder: Any, gates: RoutingState) -> None:
        self.gates = gates
        self._names = list(inspect.signature(type(decoder).forward).parameters)[1:]

    def begin(self, decoder: nn.Module, by_place: Any, by_name: dict[str, Any]) -> None:
        """Begin a call: a new text, or the continuation of one in a key-value cache."""
        given = dict(zip(self._names, by_place, strict=False)) | by_name
        call = self.gates.call
        if call is None or not call.base_only:
            call = self._begin(decoder, given)
        if given.get("inputs_embeds") is not None:
            self._embedded(call, given["inputs_embeds"])

    def _begin(self, decoder: nn.Module, given: Mapping[str, Any]) -> Call:
        # transformers is loaded with a model, not with this module.
        from fedmore.experts.mixture.routing.cache_layer import past_of

        self.gates.end()
        _check(decoder)
        cache = given.get("past_key_values")
        past = past_of(cache, self.gates.owner)
        call = self.gates.begin(Memory(read_inputs(given, past), past), cache)
        if self.gates.router.two_pass and call.wishes.forced is None:
            self._look_ahead(decoder, given, call)
        return call

    def end(self, _decoder: nn.Module, _inputs: Any, output: Any) -> None:
        """End a call: store the router's memory in the returned cache, if there is one."""
        call = self.gates.call
        if call is None or call.base_only:
            return
        from fedmore.experts.mixture.routing.cache_layer import cache_in, keep

        self.gates.end()
        cache = call.cache if call.cache is not None else cache_in(output)
        if cache is not None:
            keep(cache, call.memory.passed())

    def _look_ahead(self, decoder: nn.Module, named: Mapping[str, Any], call: Call) -> None:
        """Run the base's own pass of a two-pass router.

        If the call has a cache, so has this pass.
        """
        memory = call.memory
        past = memory.past
        given = {key: named[key] for key in HANDED_ON if named.get(key) is not None}
        if "attention_mask" in given:
            width = past.seen + memory.inputs.tokens
            given["attention_mask"] = _narrow(given["attention_mask"], width)
        caching = call.cache is not None or named.get("use_cache") is not False
        call.base_only = True
        try:
            with torch.no_grad():
                found = decoder(**given, past_key_values=past.first_pass, use_cache=caching)
        finally:
            call.base_only = False
        memory.first_pass = found.past_key_values
        self.gates.router.plan(found.last_hidden_state, memory)

    def embedded(self, _module: nn.Module, _inputs: Any, embeddings_BTD: Tensor) -> None:
        """Make the decision that all layers share, if a forward pass is going on."""
        if self.gates.call is not None:
            self._embedded(self.gates.call, embeddings_BTD)

    def _embedded(self, call: Call, embeddings_BTD: Tensor) -> None:
        if call.base_only:
            self.gates.silence(call, embeddings_BTD)
        elif self.gates.router.shared or call.wishes.forced is not None:
            self.gates.decide(call, embeddings_BTD, 0)

    def entering(self, slot: int, _block: nn.Module, inputs: Any) -> tuple[Any, ...] | None:
        """Make the decision of a routed block, before it runs."""
        call = self.gates.call
        if call is None:
            raise RuntimeError("a block of a mixture runs alone; call the mixture's whole model")
        if call.base_only:
            return None
        x_BTD = inputs[0]
        if slot == 0 and call.wishes.copies > 1:
            x_BTD = x_BTD.repeat_interleave(call.wishes.copies, dim=0)
        if not self.gates.router.shared and call.wishes.forced is None:
            self.gates.decide(call, x_BTD, slot)
        return (x_BTD, *inputs[1:])


def _check(decoder: nn.Module) -> None:
    """Raise `ConfigError` if blocks would run again after the call."""
    if decoder.training and getattr(decoder, "is_activation_checkpointing", False):
        raise ConfigError(
            "gradient checkpointing runs blocks again when the router's decision is gone: call "
            "activation_checkpointing_disable() on a mixture"
        )


def _narrow(mask: Any, width: int) -> Any:
    """Cut a mask for a longer, static cache to `width` tokens."""
    if isinstance(mask, Mapping):
        return {kind: _narrow(one, width) for kind, one in mask.items()}
    return mask if mask is None else mask[..., :width]
