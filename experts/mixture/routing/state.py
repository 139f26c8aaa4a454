"""The routing weights of the current call: the router sets them and every layer reads them.

The state belongs to one call in one thread, so several threads may use a mixture at once.

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
    """Options for the calls of one thread.

    `forced` [B, A] replaces the router: these weights hold for all tokens of a sequence, in all
    layers. With `copies`, every sequence runs that many times from the first routed block on, and
    the blocks below run once. A list in `watch` gets the weights of every decision. `draw` and
    `recorded` are as in `Memory`.
    """

    forced: Tensor | None = None
    copies: int = 1
    watch: list[Tensor] | None = None
    draw: Draw | None = None
    recorded: list[Tensor] | None = None


@dataclass
class Call:
    """One forward pass: its options, the router's memory, and the weights of the current decision.

    `base_only` is True during the base's own pass of a two-pass router.
    """

    wishes: Wishes
    memory: Memory
    cache: Any = None
    weights_BTA: Tensor | None = None
    base_only: bool = False


class _Thread(threading.local):
    """A thread's current call of a mixture, and its options; a copy starts without a call."""

    call: Call | None = None
    wishes: Wishes = Wishes()

    def __reduce__(self) -> tuple[type["_Thread"], tuple[()]]:
        """Make copies start empty."""
        return _Thread, ()


class RoutingState:
    """The router of a mixture, and the calls in progress."""

    def __init__(self, router: Router, blocks: Sequence[int]) -> None:
        self.router, self.blocks = router, tuple(blocks)
        self.owner = uuid.uuid4().hex
        """The name by which a key-value cache recognises this mixture."""
        self._thread = _Thread()

    @property
    def call(self) -> Call | None:
        """The forward pass of this thread, if one is going on."""
        return self._thread.call

    @property
    def wishes(self) -> Wishes:
        """The options for this thread's calls."""
        return self._thread.wishes

    @contextmanager
    def asking(self, **wishes: Any) -> Iterator[None]:
        """Apply the given `Wishes` to this thread's calls inside."""
        before = self._thread.wishes
        self._thread.wishes = replace(before, **wishes)
        try:
            yield
        finally:
            self._thread.wishes = before

    def begin(self, memory: Memory, cache: Any = None) -> Call:
        """Start a forward pass in this thread."""
        wishes = self._thread.wishes
        memory.draw, memory.recorded = wishes.draw, wishes.recorded
        self._thread.call = Call(wishes, memory, cache)
        return self._thread.call

    def end(self) -> None:
        """End this thread's forward pass, whether it succeeded or not."""
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
        """Let the router decide, or take the forced weights."""
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
        """Set all experts' weights to 0, so that the base works alone."""
        arms = x_BTD.new_zeros(*x_BTD.shape[:2], self.router.spec.arms)
        arms[..., 0] = 1
        call.weights_BTA = arms
