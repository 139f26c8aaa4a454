"""Losses that several trainings of one seed share, with the seconds charged to each.

A loss is equal in all trainings over the same windows, experts and weights, so it is computed once
per seed. Each training that uses it is charged the seconds that it took. So the steps per second
are those of a separate training.
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
    """Known losses and the seconds of each, by the weight of the chosen arms."""

    losses: dict[float, dict[Key, Tensor]] = field(default_factory=dict)
    seconds: dict[float, dict[Key, float]] = field(default_factory=dict)


class ChargedTable(LossTable):
    """A table that looks in `shared` first; `charged` are the seconds it would have taken alone."""

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
