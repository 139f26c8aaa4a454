"""Somebody else's Flower ServerApp, run by `coordinator start --app module:object`.

The app decides everything; our grid carries what it sends. What it makes is where it puts it: a
`Result` lives as long as the app's function, so an app that wants to keep its arrays writes them to
a file. What it says through Flower's log goes to the terminal and to `app.log`, and a `Context`
whose state it filled is kept in `app-state.bin` (`fedmore.protos.wire.records.loads` reads it).

A coordinator that was killed calls the app again from its start. The journal has the answer to
every message that the app sends as it did before, so an app that repeats itself is soon where it
was. Python's and NumPy's generators begin at the federation's seed for that.
"""

import logging
import random
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.folder.layout import APP_LOG, APP_STATE
from fedmore.coordinator.run.plan import Plan
from fedmore.coordinator.run.watched_grid import WatchedGrid
from fedmore.experts.errors import ConfigError, RoundError
from fedmore.protos.runtime.flower_apps import Value, load_app
from fedmore.protos.system.files import write_durably
from fedmore.protos.wire.flower_compat import RUN
from fedmore.protos.wire.records import dumps
from fedmore.protos.wire.status import describe

log = logging.getLogger(__name__)


def chosen(federation: Federation, app: str, run_config: Mapping[str, Value]) -> Federation:
    """The federation with what the command line says of its app; raises `ConfigError`."""
    section = federation.config.federation
    if not app and not run_config:
        return federation
    if not section.app:
        raise ConfigError(
            f"{federation.directory}: this federation has a plan of its own; make another with "
            "`coordinator init DIR --app MODULE:OBJECT`"
        )
    section = replace(
        section, app=app or section.app, run_config=section.run_config | dict(run_config)
    )
    return federation.with_config(replace(federation.config, federation=section))


def make_plan(reference: str) -> Plan:
    """Load the app; what `coordinator start` then runs in place of our own plan."""
    app = load_app(reference, ServerApp)

    def run_plan(*, federation: Federation, grid: Grid, **_: Any) -> None:
        watched = WatchedGrid(grid)
        run_app(app, reference, watched, federation.config, federation.directory)
        for warning in watched.check():
            log.warning("%s", warning)

    return run_plan


def run_app(
    app: ServerApp, reference: str, grid: Grid, config: FederationConfig, directory: Path
) -> None:
    """Call the app; raises `RoundError` with what it raised."""
    context = Context(RUN, 0, {}, RecordDict(), dict(config.federation.run_config))
    random.seed(config.federation.seed)
    np.random.seed(config.federation.seed % 2**32)
    with logged(directory / APP_LOG):
        try:
            app(grid, context)
        except Exception as error:  # whatever an app raises
            raise RoundError(f"the app {reference} raised {describe(error)}{_at(error)}") from error
    if context.state:
        write_durably(directory / APP_STATE, dumps(context.state))


def _at(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Flower's log, from INFO on, also in the file at `path`."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
