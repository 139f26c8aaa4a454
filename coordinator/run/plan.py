"""What a federation does with its clients, as a type: our stages, or a foreign app."""

from collections.abc import Callable, Collection
from typing import Protocol

from flwr.serverapp import Grid

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.monitor.tracker import Tracker
from fedmore.strategies.events import Event

Settle = Callable[[str, Collection[str]], None]
"""Told the group of tasks ("experts/1") whose round is on disk, and the ids of those that may
still be answered late: the rest of its journal may be cleared."""


def keep_all(_group: str, _late: Collection[str]) -> None:
    """There is no journal to clear."""


class Plan(Protocol):
    """Does what is left of a federation's work over `grid`; raises if it cannot be done."""

    def __call__(
        self,
        *,
        federation: Federation,
        grid: Grid,
        tracker: Tracker,
        observer: Callable[[Event], None],
        settle: Settle,
    ) -> object:
        """Do it."""
        ...
