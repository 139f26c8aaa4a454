"""The stage in which clients train the router, carried out."""

from functools import partial
from typing import Any

from fedmore.coordinator.mixture.routing_source import routing_source
from fedmore.coordinator.mixture.versions import STATE, keep_router
from fedmore.coordinator.run.stage_runner import StageContext, StageRunner
from fedmore.coordinator.store.state_keys import ROUTER
from fedmore.strategies.router_stage.state import RouterState, dump, restore
from fedmore.strategies.router_stage.strategy import RoutingStrategy
from fedmore.strategies.stages.router import RouterStage


def carry_out(context: StageContext[RouterStage]) -> None:
    """Train the rounds that are left."""
    federation, stage, done = context.federation, context.stage, context.done
    if len(done) >= stage.rounds:
        return
    source = routing_source(federation, context.scorer())
    state = restore(federation.store.get(done[-1].metrics[STATE])) if done else None
    seed, moved = federation.config.federation.seed, partial(_moved, context)
    strategy = RoutingStrategy(stage, source, seed, moved, len(done), state)
    context.recorder.begin(len(done) + 1)
    context.start(strategy, stage.rounds - len(done))


def _moved(
    context: StageContext[RouterStage], number: int, metrics: dict[str, Any], state: RouterState
) -> None:
    """The clients have moved the router."""
    store = context.federation.store
    keep_router(context.federation.registry, store, state)
    digest = store.put(dump(state))
    context.recorder.finish(number, metrics | {STATE: digest})


def goes_on_without(context: StageContext[RouterStage]) -> bool:
    """Whether earlier rounds have left a router."""
    return context.federation.registry.get_state(ROUTER) is not None


RUNNER = StageRunner(carry_out, goes_on_without)
