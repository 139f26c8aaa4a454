"""Losses that several trainings of one seed share, each charged with what it would have cost.

A loss is the same number in every training over the same windows, experts and weights, so it is
computed once a seed; a training that uses it first is charged the seconds that it took, so that
the steps a second are those of a training by itself.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedmore.experts.mixture.model import Mixture
from fedmore.experts.router_training.reinforce import LossTable

Key = tuple[int, frozenset[int]]


@dataclass
class Shared:
    """Known losses, and the seconds that each took, by what the chosen arms weigh."""

    losses: dict[float, dict[Key, Tensor]] = field(default_factory=dict)
    seconds: dict[float, dict[Key, float]] = field(default_factory=dict)


class ChargedTable(LossTable):
    """A table that asks `shared` first; `charged` are the seconds that this would have taken."""

    def __init__(self, mixture: Mixture, windows: Tensor, shared: Shared) -> None:
        super().__init__(mixture, windows)
        router: Any = mixture.router
        self._losses = shared.losses.setdefault(router.weight, {})
        self._seconds = shared.seconds.setdefault(router.weight, {})
        self.charged = 0.0

    def _compute(self, keys: list[Key]) -> None:
        there = [key for key in keys if key in self._losses]
        for key in there:
            self.known[key] = self._losses[key]
            self.charged += self._seconds[key]
        missing = [key for key in keys if key not in self._losses]
        if not missing:
            return
        began = time.perf_counter()
        super()._compute(missing)
        each = (time.perf_counter() - began) / len(missing)
        for key in missing:
            self._losses[key], self._seconds[key] = self.known[key], each
