"""The weights of the tokens in flight: set by the router, read by every layer.

All of it belongs to one call in one thread, so that any number of them may use a mixture at once.

Shape suffixes: B sequences, T tokens, D width, A arms.
"""

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedmore.experts.errors import ConfigError
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.context import Draw, Memory


@dataclass(frozen=True)
class Wishes:
    """What the calls of a thread do otherwise than usual.

    `forced` [B, A] stands in for the router: the same weights for all tokens of a sequence in all
    layers. With `copies` every sequence is run that many times from the first routed block on;
    what lies below is computed once. A list in `watch` gets the weights of every decision. `draw`
    and `recorded` are those of `Memory`.
    """

    forced: Tensor | None = None
    copies: int = 1
    watch: list[Tensor] | None = None
    draw: Draw | None = None
    recorded: list[Tensor] | None = None


@dataclass
class Call:
    """One forward pass: what it was asked for, what the router knows, the weights for now.

    `base_only` is True while a two-pass router has the base run ahead.
    """

    wishes: Wishes
    memory: Memory
    cache: Any = None
    weights_BTA: Tensor | None = None
    base_only: bool = False


class _Thread(threading.local):
    """What one thread does with a mixture; a copy of it knows of no call."""

    call: Call | None = None
    wishes: Wishes = Wishes()

    def __reduce__(self) -> tuple[type["_Thread"], tuple[()]]:
        """Have copies begin anew."""
        return _Thread, ()


class RoutingState:
    """The router of a mixture, and the calls that it is at work for."""

    def __init__(self, router: Router, blocks: Sequence[int]) -> None:
        self.router, self.blocks = router, tuple(blocks)
        self.owner = uuid.uuid4().hex
        """By which a key-value cache knows the mixture again."""
        self._thread = _Thread()

    @property
    def call(self) -> Call | None:
        """The forward pass of this thread, if one is going on."""
        return self._thread.call

    @property
    def wishes(self) -> Wishes:
        """What the calls of this thread do otherwise than usual."""
        return self._thread.wishes

    @contextmanager
    def asking(self, **wishes: Any) -> Iterator[None]:
        """Have this thread's calls inside do as `Wishes` says."""
        before = self._thread.wishes
        self._thread.wishes = replace(before, **wishes)
        try:
            yield
        finally:
            self._thread.wishes = before

    def begin(self, memory: Memory, cache: Any = None) -> Call:
        """A forward pass begins in this thread."""
        wishes = self._thread.wishes
        memory.draw, memory.recorded = wishes.draw, wishes.recorded
        self._thread.call = Call(wishes, memory, cache)
        return self._thread.call

    def end(self) -> None:
        """The forward pass is over, or did not come to an end."""
        self._thread.call = None

    def check(self, experts: int) -> None:
        """Raise `ConfigError` unless the router is made for these experts and blocks."""
        spec = self.router.spec
        decisions = 1 if self.router.shared else len(self.blocks)
        if (spec.experts, spec.layers) != (experts, decisions):
            raise ConfigError(
                f"the router is for {spec.experts} experts and {spec.layers} decisions, the "
                f"mixture has {experts} and {decisions}"
            )

    def flat(self, among: Sequence[int]) -> Tensor:
        """Weights [B * T, len(among)] of some of the experts."""
        call = self._thread.call
        if call is None or call.weights_BTA is None:
            raise RuntimeError("the router has not run; call the mixture's whole model")
        return call.weights_BTA[..., [i + 1 for i in among]].flatten(0, 1)

    def decide(self, call: Call, x_BTD: Tensor, slot: int) -> None:
        """Have the router decide, or take what is forced."""
        forced, watch = call.wishes.forced, call.wishes.watch
        if forced is not None:
            size = (len(forced), x_BTD.shape[1], forced.shape[1])
            weights = forced[:, None].expand(size).to(x_BTD.dtype)
        else:
            weights = self.router(x_BTD, slot, call.memory)
        call.weights_BTA = weights
        if watch is not None:
            watch.append(weights)

    def silence(self, call: Call, x_BTD: Tensor) -> None:
        """Have the base work alone."""
        arms = x_BTD.new_zeros(*x_BTD.shape[:2], self.router.spec.arms)
        arms[..., 0] = 1
        call.weights_BTA = arms
