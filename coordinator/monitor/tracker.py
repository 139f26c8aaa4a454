"""The interface of trackers, and one that records nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fedmore.strategies.events import Event, Progress

if TYPE_CHECKING:
    from fedmore.coordinator.config.schema import FederationConfig

Status = Literal["FINISHED", "FAILED", "KILLED"]
Fields = Mapping[str, Any]


class Tracker(Protocol):
    """Records a run; all calls but `finish` return at once."""

    def start(self, config: "FederationConfig") -> None:
        """Begin or continue the run of this federation."""
        return

    def round(self, stage: int, number: int, metrics: Fields) -> None:
        """Record a finished round with the registry's metrics; a repetition changes nothing."""
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
        """Wait until everything is written, for at most `WAIT_S` seconds, and close the run.

        A later `start` opens it again.
        """
        return


class NullTracker(Tracker):
    """Records nothing: it inherits the protocol's empty methods."""


def track(tracker: Tracker, event: Event) -> None:
    """Pass a client's progress to the tracker; other events are ignored."""
    if isinstance(event, Progress):
        tracker.client_step(
            event.name,
            loss=event.loss,
            tokens_per_s=event.tokens_per_s,
            tokens=event.tokens,
        )
