"""The tracker's queue; clients' progress reports are collected and written in batches.

Each write is a transaction of MLflow. A hundred clients report twice per second, and their reports
are not urgent.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

LINGER_S = 1.0
"""Seconds to wait for more reports after the first, unless another job arrives."""
MOST = 300
"""Most reports in one write: MLflow takes a thousand metrics, and a report has three."""

Report = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Steps:
    """Progress reports of clients, in order."""

    reports: tuple[Report, ...]

    def __call__(self, run: Any) -> None:
        """Write the reports to the run."""
        run.steps(self.reports)


Job = Callable[[Any], None]


class Jobs:
    """A queue of jobs; `None` marks its end."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._next: list[Job | None] = []

    def put(self, job: Job | None) -> None:
        """Queue a job; may be called from any thread and never blocks."""
        self._queue.put(job)

    def take(self) -> Job | None:
        """Return the next job; consecutive reports are joined."""
        job = self._next.pop() if self._next else self._queue.get()
        if not isinstance(job, Steps):
            return job
        reports, until = list(job.reports), time.monotonic() + LINGER_S
        while len(reports) < MOST:
            try:
                more = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                break
            if not isinstance(more, Steps):
                self._next.append(more)
                break
            reports += more.reports
        return Steps(tuple(reports))


def one_line(error: Exception) -> str:
    """The reason of a failed job in one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"there is no {error.name} here; pip install 'fedmore[coordinator]'"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]
