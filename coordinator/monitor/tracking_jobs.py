"""What is to be tracked waits here; clients' progress is collected and written many at a time.

Each write is a transaction of MLflow's. A hundred clients report twice a second, and their reports
are of no hurry.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

LINGER_S = 1.0
"""For so long after a report others are waited for, unless there is something else to do."""
MOST = 300
"""Reports that are written at once: MLflow takes a thousand metrics, and a report is three."""

Report = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Steps:
    """Progress reports by client, in their order."""

    reports: tuple[Report, ...]

    def __call__(self, run: Any) -> None:
        """Write the reports to the run."""
        run.steps(self.reports)


Job = Callable[[Any], None]


class Jobs:
    """A queue of jobs, of which `None` is the last."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._next: list[Job | None] = []

    def put(self, job: Job | None) -> None:
        """Queue a job; any thread, never blocks."""
        self._queue.put(job)

    def take(self) -> Job | None:
        """The next job; reports that come one after another are one."""
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
    """Why a job failed, whatever MLflow, SQLAlchemy or a server raised."""
    if isinstance(error, ModuleNotFoundError):
        return f"there is no {error.name} here; pip install 'fedmore[coordinator]'"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]
