"""The stages that train experts and adapters, carried out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.lineage.promotion import in_use
from fedmore.coordinator.mixture.evaluate import after_stage
from fedmore.coordinator.mixture.gate import judge_of, verdict
from fedmore.coordinator.mixture.versions import HELD_BACK, STATE, keep_version
from fedmore.coordinator.run.stage_end import owners_of
from fedmore.coordinator.run.stage_runner import StageContext, StageRunner
from fedmore.coordinator.store.state_keys import FORGETTING
from fedmore.experts.base.model import linear_shapes
from fedmore.strategies.events import Evaluated
from fedmore.strategies.expert_stage.advice import before
from fedmore.strategies.expert_stage.progress import Progress
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.stages.expert import FactorStage


def carry_out(context: StageContext[FactorStage]) -> None:
    """Train the rounds that are left, then score what the stage has cost other texts."""
    done = context.done
    if not done or done[-1].round < context.stage.rounds:
        _train(context)
    _forgetting(context)


def _train(context: StageContext[FactorStage]) -> None:
    federation, stage = context.federation, context.stage
    progress = _progress(context)
    strategy = ExpertStrategy(
        stage,
        linear_shapes(federation.config.base.model),
        federation.config.federation.seed,
        partial(_trained, context),
        progress,
        federation.registry.withdrawn,
        judge_of(federation, context.index, stage, context.scorer),
        partial(recovery_rounds.asks, federation.registry, stage),
    )
    context.recorder.begin(progress.done + 1)
    context.start(strategy, stage.rounds - progress.done)


def _progress(context: StageContext[FactorStage]) -> Progress:
    """What the rounds of a stage so far have left; nothing before the first."""
    if not context.done:
        return Progress()
    last = context.done[-1]
    states = restore(context.federation.store.get(last.metrics[STATE]), context.stage)
    late, sizes = last.metrics.get("late", ()), last.metrics.get("sizes", {})
    return Progress(last.round, states, late, sizes)


def _trained(
    context: StageContext[FactorStage],
    number: int,
    metrics: dict[str, Any],
    states: Mapping[str, ExpertState],
) -> None:
    """A round is aggregated: keep a version of each expert, and the state to go on from."""
    federation, at = context.federation, (context.index, number)
    for name, entry in metrics["experts"].items():
        entry.pop(HELD_BACK, None)
        entry.update(verdict(federation, name, states[name].aggregate, entry, context.scorer))
        entry["digest"] = keep_version(federation, states[name], at, dict(entry))
    context.recorder.finish(number, metrics | {STATE: federation.store.put(dump(states))})


def _forgetting(context: StageContext[FactorStage]) -> None:
    federation, kind = context.federation, context.stage.kind
    registry = federation.registry
    entries: list[Any] = registry.get_state(FORGETTING, [])
    if any(entry["stage"] == kind for entry in entries):
        return
    stages = federation.config.stages[: context.index + 1]
    kinds = [each.trains for each in stages if isinstance(each, FactorStage)]
    names = [name for name, row in in_use(registry).items() if row.kind in kinds]
    entry = after_stage(context.scorer(), federation, kind, names)
    registry.set_state(FORGETTING, [*entries, entry])
    context.observer(Evaluated(kind, entry["bits_per_byte"]))


def goes_on_without(context: StageContext[FactorStage]) -> bool:
    """Whether there are experts of another stage, or owners who will train some."""
    federation, registry = context.federation, context.federation.registry
    if any(expert.kind != context.stage.trains for expert in registry.experts()):
        return True
    later = federation.config.stages[context.index + 1 :]
    return any(owners_of(registry, each) for each in later if isinstance(each, FactorStage))


def advice(context: StageContext[FactorStage]) -> list[str]:
    """What is worth a word before the stage starts over this base."""
    return before(context.stage, linear_shapes(context.federation.config.base.model))


RUNNER = StageRunner(carry_out, goes_on_without, advice)
