"""What a plan's rounds leave: blobs, versions, rows."""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.monitor.tracker import Tracker
from fedmore.coordinator.run.plan import Settle
from fedmore.coordinator.run.recovery import LATE, count_tokens
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import RoundError
from fedmore.protos.system.terminal import plain
from fedmore.strategies.events import Event, RoundFinished, RoundStarted
from fedmore.strategies.stages.base import Stage, TrainingStage

log = logging.getLogger(__name__)
LONGEST_REASON = 1_000
_NODE = re.compile(r"\bnode (\d+)\b")


class Recorder:
    """Writes a stage's rounds down, and tells of them.

    `settle` hears when a round is on disk: the group of its tasks ("experts/1"), and the ids of
    those that may still be answered late. The rest of its journal may be cleared then.
    """

    def __init__(
        self,
        federation: Federation,
        index: int,
        stage: Stage,
        *,
        tracker: Tracker,
        observer: Callable[[Event], None],
        settle: Settle,
    ) -> None:
        self.index, self.stage = index, stage
        self._registry, self._store = federation.registry, federation.store
        self._tracker, self._observer, self._settle = tracker, observer, settle
        self._started = datetime.now(UTC)

    def begin(self, number: int) -> None:
        """Round `number` (from 1) begins."""
        self._started = datetime.now(UTC)
        self._observer(RoundStarted(self.index, number - 1))

    def finish(self, number: int, metrics: dict[str, Any]) -> None:
        """Round `number` is aggregated, and what it made is in registry and store."""
        names = {m.node_id: m.name for m in self._registry.members()}
        failures = [with_name(text, names) for text in metrics.get("failures", ())]
        metrics = {**metrics, "failures": failures}
        self._registry.add_round(
            stage=self.index,
            kind=self.stage.kind,
            round=number,
            metrics=metrics,
            started_at=self._started,
        )
        if isinstance(self.stage, TrainingStage):
            count_tokens(self._registry)
        self._clear(number, [task["id"] for task in metrics.get(LATE, ())])
        log.info("round %d of %s is done", number, self.stage.kind)
        self._note(number, failures, metrics.get("warnings", ()))
        self._tracker.round(self.index, number, metrics)
        self._observer(RoundFinished(self.index, number - 1, metrics))
        if number < self.stage.rounds:
            self.begin(number + 1)

    def _note(self, number: int, failures: Sequence[str], warnings: Sequence[str]) -> None:
        """Whom the round went on without, and what it warns of: in the log and the registry."""
        for failure in failures:
            log.warning("round %d went on without: %s", number, plain(failure, LONGEST_REASON))
        for warning in warnings:
            log.warning("round %d: %s", number, plain(warning, LONGEST_REASON))
        if failures or warnings:
            about = {"stage": self.stage.kind, "round": number}
            payload = about | {"failures": list(failures), "warnings": list(warnings)}
            self._registry.add_event("incomplete", payload=payload)

    def _clear(self, number: int, late: Collection[str]) -> None:
        """What only this round needed: its tasks, and the state that it went on from."""
        self._settle(f"{self.stage.kind}/{number}", late)
        for row in self._registry.rounds():
            if (row.stage, row.round) == (self.index, number - 1):
                self._store.delete(row.metrics[STATE])


@contextmanager
def named(registry: Registry) -> Iterator[None]:
    """A `RoundError` that is raised inside names members, not nodes."""
    try:
        yield
    except RoundError as error:
        names = {member.node_id: member.name for member in registry.members()}
        raise RoundError(with_name(str(error), names), nobody=error.nobody) from error


def with_name(text: str, names: Mapping[int, str]) -> str:
    """A failure with the member's name in place of "node" and its number, as strategies know it."""
    return _NODE.sub(lambda found: names.get(int(found[1]), found[0]), text)
