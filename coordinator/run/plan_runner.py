"""The one place where a plan is put together and run, whatever carries its messages.

`coordinator start`, a grid that somebody else runs, and the engine `local` all come here. They
differ in the grid, in who observes, and in what is done at the end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flwr.serverapp import Grid
from rich.console import Console

from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.monitor.dashboard import Observer, make_observer
from fedmore.coordinator.monitor.mlflow_tracker import MlflowTracker
from fedmore.coordinator.monitor.tracker import NullTracker, Tracker
from fedmore.coordinator.run.plan import Plan, Settle, keep_all
from fedmore.coordinator.store import state_keys
from fedmore.experts.errors import FedmoreError
from fedmore.protos.wire.status import describe
from fedmore.strategies.events import Event


def import_plan() -> Plan:
    """Our own plan; imports torch, transformers and what is built on them."""
    from fedmore.coordinator.run.stages import run_stages

    return run_stages


def tracker_of(federation: Federation) -> Tracker:
    """The federation's MLflow run; a foreign app has none."""
    app = federation.config.federation.app
    return NullTracker() if app else MlflowTracker(federation.directory)


def observer_of(federation: Federation, console: Console, expected: int | None = None) -> Observer:
    """Shows on `console` what happens; `expected` clients, by default the configured number."""
    section = federation.config.federation
    count = section.clients if expected is None else expected
    return make_observer(console, section.name, count, not section.app)


def run_plan(
    federation: Federation,
    grid: Grid,
    tracker: Tracker,
    observer: Callable[[Event], None],
    plan: Plan,
    *,
    settle: Settle = keep_all,
    on_done: Callable[[], None] = lambda: None,
) -> None:
    """Run what is left of a federation's plan over `grid`, and note its phase.

    Args:
        federation: whose plan it is, and where results go.
        grid: carries messages to the clients and back.
        tracker: keeps metrics; its run is started here, and finished at the end.
        observer: hears what happens.
        plan: `import_plan()`, or the plan of a foreign app.
        settle: clears the journal of a finished round.
        on_done: is called when the plan is done, before the tracked run is closed.

    """
    registry = federation.registry
    registry.set_state(state_keys.PHASE, state_keys.RUNNING)
    tracker.start(federation.config)
    plan(federation=federation, grid=grid, tracker=tracker, observer=observer, settle=settle)
    more = recovery_rounds.ahead(federation.config, registry)
    registry.set_state(state_keys.PHASE, state_keys.INTERRUPTED if more else state_keys.FINISHED)
    on_done()
    tracker.finish("FINISHED")


@contextmanager
def noting_failure(
    federation: Federation, tracker: Tracker, tell: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Leave in the registry how the block failed, if it did, and close the tracked run.

    `tell` hears the reason. A plan that is finished stays so.
    """
    try:
        yield
    except BaseException as error:
        _note(federation, tracker, tell, error)
        raise


def _note(
    federation: Federation, tracker: Tracker, tell: Callable[[str], None], error: BaseException
) -> None:
    registry, stopped = federation.registry, isinstance(error, KeyboardInterrupt)
    if registry.get_state(state_keys.PHASE) != state_keys.FINISHED:
        phase = state_keys.INTERRUPTED if stopped else state_keys.FAILED
        registry.set_state(state_keys.PHASE, phase)
        registry.set_state(state_keys.FAILURE, None if stopped else describe(error))
        tell("stopped" if stopped else describe(error))
    with suppress(FedmoreError):  # the first error is the one to report
        tracker.finish("KILLED" if stopped else "FAILED")
