"""What a router knows during one call, and how it must choose.

Shape suffixes: B sequences (1 if all are alike), T tokens of the call, D width, A arms.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.routers.inputs import Inputs
from fedmore.experts.routers.past import Past, Track

Draw = Callable[[int, Tensor, Tensor], Tensor]
"""A function from layer slot, features and log q to the chosen arms, in order."""


@dataclass
class Memory:
    """The tokens of one call and the texts' past; it belongs to that call alone.

    `past` does not change until `passed`. `draw` replaces the deterministic top-k (ReMix in
    training). A list in `recorded` gets the logits of every decision. A two-pass router keeps the
    results of its first pass in `planned`, and that pass's cache in `first_pass`.
    """

    inputs: Inputs
    past: Past = field(default_factory=Past)
    draw: Draw | None = None
    recorded: list[Tensor] | None = None
    planned: Tensor | None = None
    first_pass: Any = None
    sums: dict[int, Tensor] = field(default_factory=dict)
    number_BT: Tensor = field(init=False)
    """Number of each token within its text, counting real tokens; the start token has 1."""

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
        """The memory for new texts without padding, given by their hidden states or embeddings."""
        return cls(Inputs.of(x_BTD))

    @property
    def evidence(self) -> Tensor:
        """Which tokens count as evidence, bool [B, T]: all but start tokens and padding."""
        real_BT = self.inputs.real
        told = self.number_BT > 1
        return told if real_BT is None else told & real_BT

    def running(self, slot: int, x_BTD: Tensor, limit: int = 0) -> tuple[Tensor, Tensor]:
        """Sum over a text's tokens so far, [B, T, D], and their number, [B, T, 1].

        If `limit` is not 0, only the first `limit` tokens of a text count.
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
        """Return the past, extended by the tokens of this call."""
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
    """Running sums over the tokens, [B, T, D], which restart at the beginning of a text.

    `before_B1D` is the sum of earlier calls. The sum before a beginning is subtracted in float64,
    so that one text's rounding does not reach the next.
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
