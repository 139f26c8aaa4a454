"""The stages that train experts and adapters, carried out."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.mixture.evaluate import after_stage
from fedmore.coordinator.mixture.held_back_experts import is_released, judge_of
from fedmore.coordinator.mixture.versions import STATE, keep_version
from fedmore.coordinator.run.recorder import Recorder
from fedmore.coordinator.run.stage_end import owners_of
from fedmore.coordinator.run.stage_runner import StageRunner
from fedmore.coordinator.store.records import RoundRow
from fedmore.coordinator.store.state_keys import FORGETTING
from fedmore.experts.base.model import linear_shapes
from fedmore.strategies.events import Evaluated
from fedmore.strategies.expert_stage.advice import before
from fedmore.strategies.expert_stage.progress import Progress
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.expert_stage.strategy import ExpertStrategy
from fedmore.strategies.stages.expert import FactorStage

if TYPE_CHECKING:
    from fedmore.coordinator.run.stages import PlanRun


def carry_out(
    run: "PlanRun", grid: Grid, index: int, stage: FactorStage, done: Sequence[RoundRow]
) -> None:
    """Train the rounds that are left, then score what the stage has cost other texts."""
    if not done or done[-1].round < stage.rounds:
        _train(run, grid, index, stage, done)
    _forgetting(run, index, stage)


def _train(
    run: "PlanRun", grid: Grid, index: int, stage: FactorStage, done: Sequence[RoundRow]
) -> None:
    recorder, progress = Recorder(run, index, stage), _progress(run, stage, done)
    strategy = ExpertStrategy(
        stage,
        linear_shapes(run.config.base.model),
        run.config.federation.seed,
        partial(_trained, recorder),
        progress,
        run.registry.withdrawn,
        judge_of(run.config, run.registry, run.store, index, lambda: run.scorer),
        partial(recovery_rounds.asks, run.registry, stage),
    )
    recorder.begin(progress.done + 1)
    run.start(strategy, grid, stage.rounds - progress.done, stage.timeout_s)


def _progress(run: "PlanRun", stage: FactorStage, done: Sequence[RoundRow]) -> Progress:
    """What the rounds of a stage so far have left; nothing before the first."""
    if not done:
        return Progress()
    metrics = done[-1].metrics
    states = restore(run.store.get(metrics[STATE]), stage)
    return Progress(done[-1].round, states, metrics.get("late", ()), metrics.get("sizes", {}))


def _trained(
    recorder: Recorder, number: int, metrics: dict[str, Any], states: Mapping[str, ExpertState]
) -> None:
    """A round is aggregated: keep a version of each expert, and the state to go on from."""
    run = recorder.run
    for name, entry in metrics["experts"].items():
        if not is_released(run.config, run.registry, states[name], entry, lambda: run.scorer):
            continue
        at, known = (recorder.index, number), dict(entry)
        entry["digest"] = keep_version(run.registry, run.store, states[name], at, known)
    recorder.finish(number, metrics | {STATE: run.store.put(dump(states))})


def _forgetting(run: "PlanRun", index: int, stage: FactorStage) -> None:
    entries: list[Any] = run.registry.get_state(FORGETTING, [])
    if any(entry["stage"] == stage.kind for entry in entries):
        return
    stages = run.config.stages[: index + 1]
    kinds = [each.trains for each in stages if isinstance(each, FactorStage)]
    names = sorted({e.name for e in run.registry.experts() if e.kind in kinds})
    entry = after_stage(run.scorer, run.registry, run.store, stage.kind, names)
    run.registry.set_state(FORGETTING, [*entries, entry])
    run.observer(Evaluated(stage.kind, entry["bits_per_byte"]))


def goes_on_without(run: "PlanRun", index: int, stage: FactorStage) -> bool:
    """Whether there are experts of another stage, or owners who will train some."""
    if any(expert.kind != stage.trains for expert in run.registry.experts()):
        return True
    later = [each for each in run.config.stages[index + 1 :] if isinstance(each, FactorStage)]
    return any(owners_of(run.registry, each) for each in later)


def advice(run: "PlanRun", stage: FactorStage) -> list[str]:
    """What is worth a word before the stage starts over this base."""
    return before(stage, linear_shapes(run.config.base.model))


RUNNER = StageRunner(carry_out, goes_on_without, advice)
