"""A federation's plan over a grid that somebody else runs: a SuperLink's, or a simulation's.

The folder, its registry and its results are those of `coordinator start`; who the clients are and
how messages reach them is the business of whoever runs the grid.
"""

import time
from collections.abc import Callable
from pathlib import Path

from flwr.serverapp import Grid
from rich.console import Console

from fedmore.coordinator.config.validation import check_plan
from fedmore.coordinator.folder.federation import open_federation, running_alone
from fedmore.coordinator.run.plan_runner import (
    import_plan,
    noting_failure,
    observer_of,
    run_plan,
    tracker_of,
)
from fedmore.coordinator.store import state_keys
from fedmore.experts.errors import RoundError

POLL_S = 0.5


def run_over_grid(directory: Path, grid: Grid, console: Console, patience_s: float) -> None:
    """Run what is left of the plan of the federation in `directory` over `grid`.

    Waits `patience_s` seconds for as many nodes as the federation has clients.
    """
    with (
        open_federation(directory) as federation,
        running_alone(directory),
        federation.registry.database.alone(),
    ):
        if federation.registry.get_state(state_keys.PHASE) == state_keys.FINISHED:
            console.print(f"{directory}: this federation is finished; nothing is left to do.")
            return
        config = federation.config
        check_plan(config)
        wait_for_nodes(grid, config.federation.clients, patience_s)
        tracker, observer = tracker_of(federation), observer_of(federation, console)
        with noting_failure(federation, tracker), observer:
            run_plan(federation, grid, tracker, observer, import_plan())


def wait_for_nodes(
    grid: Grid,
    count: int,
    patience_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when `grid` has `count` nodes; raises `RoundError` after `patience_s` seconds."""
    deadline = clock() + patience_s
    while (found := len(list(grid.get_node_ids()))) < count:
        if clock() >= deadline:
            raise RoundError(f"{found} of {count} nodes came within {patience_s:g} s")
        sleep(POLL_S)
