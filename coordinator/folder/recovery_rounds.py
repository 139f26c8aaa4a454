"""Recovery rounds: after a withdrawal, the remaining owners of an expert train for more rounds.

They follow the rounds of a stage's plan, and only owners of the experts concerned are asked. A plan
with more rounds is a new plan. Each client shows it to its owner at its next connection, and does
no task of it before the owner agrees (`client accept`). So recovery rounds begin with the next
`coordinator start`.
"""

from dataclasses import replace
from typing import Any

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import RECOVERY, RECOVERY_ASKED
from fedmore.strategies.stages.base import Stage, TrainingStage


def with_recovery(config: FederationConfig, registry: Registry) -> FederationConfig:
    """Return the configuration with every stage's recovery rounds added to those of the plan."""
    entries = registry.get_state(RECOVERY, {})
    stages = tuple(
        replace(stage, rounds=stage.rounds + entries[stage.kind]["rounds"])
        if isinstance(stage, TrainingStage) and stage.kind in entries
        else stage
        for stage in config.stages
    )
    return replace(config, stages=stages) if entries else config


def asked_for(config: FederationConfig, registry: Registry) -> FederationConfig:
    """Return the configuration with the recovery rounds that the operator asked for."""
    rounds = registry.get_state(RECOVERY_ASKED, 0)
    return recovering(config, rounds) if rounds else config


def recovering(config: FederationConfig, rounds: int) -> FederationConfig:
    """Return the configuration in which an expert that became worse gets `rounds` rounds more."""
    section = replace(config.withdrawal, when_worse="recover", recovery_rounds=rounds)
    return replace(config, withdrawal=section)


def add(registry: Registry, stage: Stage, index: int, expert: str, rounds: int) -> None:
    """Add recovery rounds for the owners of an expert; a finished plan is opened again.

    An expert that already has as many recovery rounds ahead gets no more.
    """
    entries: dict[str, Any] = registry.get_state(RECOVERY, {})
    entry = entries.get(stage.kind, {"planned": stage.rounds, "rounds": 0, "experts": []})
    done = max(sum(row.stage == index for row in registry.rounds()), entry["planned"])
    ahead = entry["planned"] + entry["rounds"] - done
    experts = sorted({*(entry["experts"] if ahead else ()), expert})
    entry |= {"rounds": entry["rounds"] + max(0, rounds - ahead), "experts": experts}
    registry.set_state(RECOVERY, {**entries, stage.kind: entry})
    _reopen(registry)


def _reopen(registry: Registry) -> None:
    """Let the next start continue a finished plan; imports late, because of a cycle."""
    from fedmore.coordinator.store.state_keys import DISMISSED, FINISHED, INTERRUPTED, PHASE

    if registry.get_state(PHASE) == FINISHED:
        registry.set_state(DISMISSED, False)  # a kill after this repeats both
        registry.set_state(PHASE, INTERRUPTED)


def asks(registry: Registry, stage: Stage, number: int, expert: str) -> bool:
    """Whether round `number` of a stage asks the owners of an expert; a plan's own round asks all.

    `stage` includes its recovery rounds.
    """
    entry = registry.get_state(RECOVERY, {}).get(stage.kind)
    return not entry or number <= stage.rounds - entry["rounds"] or expert in entry["experts"]


def ahead(config: FederationConfig, registry: Registry) -> dict[str, list[str]]:
    """The experts with recovery rounds ahead, by kind of stage."""
    rows, kinds = registry.rounds(), [stage.kind for stage in config.stages]
    return {
        kind: entry["experts"]
        for kind, entry in registry.get_state(RECOVERY, {}).items()
        if sum(row.stage == kinds.index(kind) for row in rows) < entry["planned"] + entry["rounds"]
    }
