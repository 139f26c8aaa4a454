"""What the coordinator says about a run, and a tracker that keeps none of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fedmore.strategies.events import Event, Progress

if TYPE_CHECKING:
    from fedmore.coordinator.config.schema import FederationConfig

Status = Literal["FINISHED", "FAILED", "KILLED"]
Fields = Mapping[str, Any]


class Tracker(Protocol):
    """What the coordinator says about a run; every call returns at once but `finish`."""

    def start(self, config: "FederationConfig") -> None:
        """Begin, or go on with, the run of this federation."""
        return

    def round(self, stage: int, number: int, metrics: Fields) -> None:
        """Record a finished round by the registry's metrics; twice changes nothing."""
        return

    def client_step(
        self, name: str, *, loss: float, tokens_per_s: float, tokens: int | None = None
    ) -> None:
        """Record one progress report of a client that is training."""
        return

    def evaluation(self, evaluation: Fields) -> None:
        """Record the contents of evaluation.json."""
        return

    def artifact(self, path: Path) -> None:
        """Keep a file with the run."""
        return

    def finish(self, status: Status = "FINISHED") -> None:
        """Wait until everything is written, or `WAIT_S` are over, and close the run.

        A later `start` opens it again.
        """
        return


class NullTracker(Tracker):
    """Tracks nothing: every method is the protocol's empty one."""


def track(tracker: Tracker, event: Event) -> None:
    """Give the tracker what it keeps of an event: a client's progress, and nothing else."""
    if isinstance(event, Progress):
        tracker.client_step(
            event.name,
            loss=event.loss,
            tokens_per_s=event.tokens_per_s,
            tokens=event.tokens,
        )
