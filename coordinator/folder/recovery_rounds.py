"""Recovery rounds: the remaining owners of an expert train on after somebody has withdrawn.

They follow the rounds of a stage's plan, and only owners of the experts concerned are asked. A plan
with more rounds is another plan: every owner is shown it when its client comes back, and a client
does no task of it before its owner has agreed (`client accept`). So recovery rounds begin with the
next `coordinator start`.
"""

from dataclasses import replace
from typing import Any

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import RECOVERY, RECOVERY_ASKED
from fedmore.strategies.stages.base import Stage, TrainingStage


def with_recovery(config: FederationConfig, registry: Registry) -> FederationConfig:
    """The configuration with the recovery rounds of every stage added to those of the plan."""
    entries = registry.get_state(RECOVERY, {})
    stages = tuple(
        replace(stage, rounds=stage.rounds + entries[stage.kind]["rounds"])
        if isinstance(stage, TrainingStage) and stage.kind in entries
        else stage
        for stage in config.stages
    )
    return replace(config, stages=stages) if entries else config


def asked_for(config: FederationConfig, registry: Registry) -> FederationConfig:
    """The configuration with what the operator asked for in place of what it says."""
    rounds = registry.get_state(RECOVERY_ASKED, 0)
    return recovering(config, rounds) if rounds else config


def recovering(config: FederationConfig, rounds: int) -> FederationConfig:
    """The configuration in which an expert that became worse gets `rounds` recovery rounds."""
    section = replace(config.withdrawal, when_worse="recover", recovery_rounds=rounds)
    return replace(config, withdrawal=section)


def add(registry: Registry, stage: Stage, index: int, expert: str, rounds: int) -> None:
    """Have the owners of an expert train for so many rounds more; a finished plan is open again.

    An expert that has as many recovery rounds before it already gets no more of them.
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
    """Let the next start of a finished plan go on; these two import what imports this module."""
    from fedmore.coordinator.store.state_keys import DISMISSED, FINISHED, INTERRUPTED, PHASE

    if registry.get_state(PHASE) == FINISHED:
        registry.set_state(DISMISSED, False)  # before the phase, which says that it is done
        registry.set_state(PHASE, INTERRUPTED)


def asks(registry: Registry, stage: Stage, number: int, expert: str) -> bool:
    """Whether round `number` of a stage asks the owners of an expert; `stage` has all its rounds.

    The rounds of the plan ask everybody.
    """
    entry = registry.get_state(RECOVERY, {}).get(stage.kind)
    return not entry or number <= stage.rounds - entry["rounds"] or expert in entry["experts"]


def ahead(config: FederationConfig, registry: Registry) -> dict[str, list[str]]:
    """The experts that have recovery rounds before them, by kind of stage."""
    rows, kinds = registry.rounds(), [stage.kind for stage in config.stages]
    return {
        kind: entry["experts"]
        for kind, entry in registry.get_state(RECOVERY, {}).items()
        if sum(row.stage == kinds.index(kind) for row in rows) < entry["planned"] + entry["rounds"]
    }
