"""What a router knows in one call, and how it is to choose now.

Shape suffixes: B sequences (1 where all are alike), T tokens of the call, D width, A arms.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.routers.inputs import Inputs
from fedmore.experts.routers.past import Past, Track

Draw = Callable[[int, Tensor, Tensor], Tensor]
"""Layer slot, what the decision is made from, log q: the arms that are chosen, ordered."""


@dataclass
class Memory:
    """The tokens of one call and what came before them; it belongs to that call alone.

    `past` stays as it is until `passed`. `draw` chooses in place of the deterministic top-k (ReMix
    in training). A list in `recorded` gets the logits of every decision. `planned` and
    `first_pass` are what a two-pass router keeps of its first pass, and that pass's cache.
    """

    inputs: Inputs
    past: Past = field(default_factory=Past)
    draw: Draw | None = None
    recorded: list[Tensor] | None = None
    planned: Tensor | None = None
    first_pass: Any = None
    sums: dict[int, Tensor] = field(default_factory=dict)
    number_BT: Tensor = field(init=False)
    """Real tokens of each text up to each token, the start token being 1."""

    def __post_init__(self) -> None:
        """Count the tokens."""
        inputs = self.inputs
        real_BT = inputs.real
        if real_BT is None:
            real_BT = torch.ones_like(inputs.position_BT[:1])
        counted_BT1 = real_BT[..., None].long()
        last = self.past.number.last
        before = None if last is None else last[..., None]
        self.number_BT = running_total(counted_BT1, inputs.begins_BT, before)[..., 0]

    @classmethod
    def of(cls, x_BTD: Tensor) -> "Memory":
        """Of new texts without padding, whose hidden states or embeddings are given."""
        return cls(Inputs.of(x_BTD))

    @property
    def evidence(self) -> Tensor:
        """Which tokens [B, T] tell something about the text: no start token, no padding."""
        real_BT = self.inputs.real
        told = self.number_BT > 1
        return told if real_BT is None else told & real_BT

    def running(self, slot: int, x_BTD: Tensor, limit: int = 0) -> tuple[Tensor, Tensor]:
        """Sum over the tokens of a text so far [B, T, D], and how many they are [B, T, 1].

        Of its first `limit` tokens only, if `limit` is not 0.
        """
        counted = self.evidence
        numbers = (self.number_BT - 1).clamp_min(0)
        if limit:
            counted = counted & (numbers <= limit)
            numbers = numbers.clamp_max(limit)
        track = self.past.sums.get(slot)
        before = None if track is None else track.last
        sums = running_total(x_BTD * counted[..., None], self.inputs.begins_BT, before)
        self.sums[slot] = sums
        return sums, numbers[..., None]

    def passed(self) -> Past:
        """The past with the tokens of this call in it."""
        past, inputs = self.past, self.inputs
        past.seen += inputs.tokens
        past.mask_BT = inputs.mask_BK
        past.first_pass = self.first_pass
        past.number.add(self.number_BT, past.whole)
        past.position.add(inputs.position_BT, past.whole)
        for slot, sums in self.sums.items():
            past.sums.setdefault(slot, Track()).add(sums, past.whole)
        return past


def running_total(x_BTD: Tensor, begins_BT: Tensor | None, before_B1D: Tensor | None) -> Tensor:
    """Sums over the tokens up to each one [B, T, D], anew where a text begins.

    `before_B1D` was there already. What is taken off at a beginning is taken off in float64, so
    that no text leaves its rounding behind in the next.
    """
    if begins_BT is None:
        total = x_BTD.cumsum(1)
        return total if before_B1D is None else total + before_B1D
    rows = max(len(x_BTD), len(begins_BT))
    x, begins = x_BTD.expand(rows, -1, -1), begins_BT.expand(rows, -1)
    exact = (x.double() if x.is_floating_point() else x).cumsum(1)
    place = torch.arange(x.shape[1], device=x.device)
    first = torch.where(begins, place, -1).cummax(1).values[..., None]
    taken = (exact - x).gather(1, first.clamp_min(0).expand_as(exact))
    carried = 0 if before_B1D is None else before_B1D
    return torch.where(first < 0, exact + carried, exact - taken).to(x_BTD.dtype)
