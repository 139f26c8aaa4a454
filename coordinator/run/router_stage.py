"""The stage in which clients train the router, carried out."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fedmore.coordinator.mixture.routing_source import routing_source
from fedmore.coordinator.mixture.versions import STATE, keep_router
from fedmore.coordinator.run.recorder import Recorder
from fedmore.coordinator.run.stage_runner import StageRunner
from fedmore.coordinator.store.records import RoundRow
from fedmore.coordinator.store.state_keys import ROUTER
from fedmore.strategies.router_stage.state import RouterState, dump, restore
from fedmore.strategies.router_stage.strategy import RoutingStrategy
from fedmore.strategies.stages.router import RouterStage

if TYPE_CHECKING:
    from fedmore.coordinator.run.stages import PlanRun


def carry_out(
    run: "PlanRun", grid: Grid, index: int, stage: RouterStage, done: Sequence[RoundRow]
) -> None:
    """Train the rounds that are left."""
    if len(done) >= stage.rounds:
        return
    recorder = Recorder(run, index, stage)
    source = routing_source(run.config, run.scorer, run.registry, run.store)
    state = restore(run.store.get(done[-1].metrics[STATE])) if done else None
    seed, moved = run.config.federation.seed, partial(_moved, recorder)
    strategy = RoutingStrategy(stage, source, seed, moved, len(done), state)
    recorder.begin(len(done) + 1)
    run.start(strategy, grid, stage.rounds - len(done), stage.timeout_s)


def _moved(recorder: Recorder, number: int, metrics: dict[str, Any], state: RouterState) -> None:
    """The clients have moved the router."""
    keep_router(recorder.run.registry, recorder.run.store, state)
    digest = recorder.run.store.put(dump(state))
    recorder.finish(number, metrics | {STATE: digest})


def goes_on_without(run: "PlanRun", _index: int, _stage: RouterStage) -> bool:
    """Whether earlier rounds have left a router."""
    return run.registry.get_state(ROUTER) is not None


RUNNER = StageRunner(carry_out, goes_on_without)
