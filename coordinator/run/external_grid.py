"""A federation's plan over a grid that somebody else runs: a SuperLink's, or a simulation's.

The folder, its registry and its results are those of `coordinator start`; who the clients are and
how messages reach them is the business of whoever runs the grid.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.serverapp import Grid
from rich.console import Console

from fedmore.coordinator.config.validation import check_plan
from fedmore.coordinator.folder.federation import Federation, open_federation, running_alone
from fedmore.coordinator.monitor.dashboard import make_observer
from fedmore.coordinator.monitor.mlflow_tracker import MlflowTracker, Tracker
from fedmore.coordinator.run.stages import run_plan
from fedmore.coordinator.store import state_keys
from fedmore.experts.errors import RoundError
from fedmore.protos.wire.status import describe

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
        observer = make_observer(console, config.federation.name, config.federation.clients)
        with tracked(federation, MlflowTracker(directory)) as tracker, observer:
            run_plan(
                grid=grid,
                config=config,
                directory=directory,
                registry=federation.registry,
                store=federation.store,
                tracker=tracker,
                observer=observer,
            )


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


@contextmanager
def tracked(federation: Federation, tracker: Tracker) -> Iterator[Tracker]:
    """A tracked run, and the phase in the registry, ended as the block ends."""
    registry = federation.registry
    registry.set_state(state_keys.PHASE, state_keys.RUNNING)
    tracker.start(federation.config)
    try:
        yield tracker
    except BaseException as error:
        registry.set_state(state_keys.PHASE, state_keys.FAILED)
        registry.set_state("failure", describe(error))
        tracker.finish("FAILED")
        raise
    registry.set_state(state_keys.PHASE, state_keys.FINISHED)
    tracker.finish("FINISHED")
