"""What a router knows of the tokens before those in flight, and how it is to choose now.

Shape suffixes: B sequences (1 where all are alike), T tokens in flight, D width, A arms.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.errors import ConfigError

Draw = Callable[[int, Tensor, Tensor], Tensor]
"""Layer slot, what the decision is made from, log q: the arms that are chosen, ordered."""


@dataclass
class Memory:
    """One text's, or one batch of texts'; emptied when a new one begins.

    `number_BT` counts the real tokens of each sequence, the start token being 1. `draw` chooses
    in place of the deterministic top-k (ReMix in training).
    """

    number_BT: Tensor = field(default_factory=lambda: torch.zeros(1, 0, dtype=torch.long))
    sums: dict[int, Tensor] = field(default_factory=dict)
    seen: int = 0
    cache: Any = None
    draw: Draw | None = None
    _mask_BT: Tensor | None = None
    _text: "weakref.ref[Any] | None" = None

    def begin(self, tokens: int, mask_BT: Tensor | None, cached: int, device: torch.device) -> None:
        """`tokens` more come after `cached`; `mask_BT` is 0 where there is only padding."""
        if cached == 0:
            self.sums, self.seen, self.cache, self._text = {}, 0, None, None
            self.number_BT = torch.zeros(1, 1, dtype=torch.long, device=device)
        fresh = torch.ones(1, tokens, dtype=torch.long, device=device)
        self._mask_BT = None if mask_BT is None else mask_BT[:, -tokens:].long()
        counted = fresh if self._mask_BT is None else self._mask_BT
        self.number_BT = self.number_BT[:, -1:] + counted.cumsum(1)
        self.seen += tokens

    def belongs_to(self, cache: Any) -> None:
        """The key-value cache that holds the same text, once there is one."""
        if cache is not None:
            self._text = weakref.ref(cache)

    def check(self, cache: Any, cached: int) -> None:
        """Raise `ConfigError` unless `cache` holds the text that this is the memory of."""
        if self._text is None or self._text() is not cache or cached != self.seen:
            raise ConfigError(
                f"the key-value cache holds {cached} tokens of another text than the {self.seen} "
                "that the router has seen last: a mixture goes on with one text at a time, and "
                "its cache cannot be copied or cropped"
            )

    @property
    def evidence(self) -> Tensor:
        """Which tokens [B, T] tell something about the text: no start token, no padding."""
        real = self.number_BT > 1
        return real if self._mask_BT is None else real & self._mask_BT.bool()

    def running(self, slot: int, x_BTD: Tensor, limit: int = 0) -> tuple[Tensor, Tensor]:
        """Sum over the tokens so far [B, T, D], and how many they are [B, T, 1].

        Of the first `limit` tokens only, where it is not 0.
        """
        counted = self.evidence
        numbers = (self.number_BT - 1).clamp_min(0)
        if limit:
            counted = counted & (numbers <= limit)
            numbers = numbers.clamp_max(limit)
        sums = (x_BTD * counted[..., None]).cumsum(1)
        if slot in self.sums:
            sums = sums + self.sums[slot]
        self.sums[slot] = sums[:, -1:]
        return sums, numbers[..., None]
