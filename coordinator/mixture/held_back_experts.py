"""Experts that are held back after a withdrawal, until they are as good as before it.

Held back means that there is no version of it: no mixture is made with it. Its owners can train it
on, and after every round of theirs it is scored again.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.evaluate import Scorer
from fedmore.coordinator.mixture.versions import drop_expert
from fedmore.coordinator.mixture.withdrawal_scoring import (
    HELD_BACK,
    RECOVERS,
    Outcome,
    is_good,
    scorer_of,
    settle,
)
from fedmore.coordinator.store.state_keys import HELD
from fedmore.strategies.expert_stage.progress import Judge, Told
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.expert import FactorStage

log = logging.getLogger(__name__)


def note(federation: Federation, stage: Stage, index: int, outcome: Outcome) -> None:
    """Write down what becomes of an expert after a withdrawal; twice does nothing more."""
    name, told, registry = outcome.state.name, outcome.told, federation.registry
    held = {key: value for key, value in registry.get_state(HELD, {}).items() if key != name}
    if HELD_BACK in told:
        held |= {name: {"why": told[HELD_BACK], "scores": told["scores"]}}
        drop_expert(registry, federation.store, name)
    registry.set_state(HELD, held)
    if RECOVERS in told:
        recovery_rounds.add(registry, stage, index, name, told[RECOVERS])


def judge_of(
    federation: Federation, index: int, stage: FactorStage, scorer: Callable[[], Scorer]
) -> Judge:
    """What a stage of a coordinator that runs does with an expert after a withdrawal."""

    def judge(
        before: ExpertState, left: ExpertState, error: float
    ) -> tuple[ExpertState, float, Told]:
        wanted = recovery_rounds.asked_for(federation.config, federation.registry)
        outcome = settle(wanted, before, left, error, stage, scorer)
        note(federation, stage, index, outcome)
        log.warning("%s after a withdrawal: %s", left.name, outcome.told.get("withdrawal", "gone"))
        return outcome.state, outcome.error, dict(outcome.told)

    return judge


def is_released(
    federation: Federation,
    state: ExpertState,
    entry: dict[str, Any],
    scorer: Callable[[], Scorer],
) -> bool:
    """Whether a version of an expert may be kept after a round; says in `entry` if it may not.

    One that is held back is scored again, and let go once it is good enough.
    """
    config, registry = federation.config, federation.registry
    held: Mapping[str, Any] = registry.get_state(HELD, {})
    if state.name not in held:
        return True
    scores = held[state.name]["scores"]
    now = scorer_of(config, state.name, scorer)(state.aggregate)
    entry["scores"] = {**scores, "now": now}
    if not is_good(config.withdrawal, now, scores):
        entry[HELD_BACK] = held[state.name]["why"]
        return False
    entry.pop(HELD_BACK, None)
    entry["withdrawal"] = f"held back no more: {now:.3f} bits per byte"
    registry.set_state(HELD, {name: each for name, each in held.items() if name != state.name})
    log.warning("%s: %s", state.name, entry["withdrawal"])
    return True
