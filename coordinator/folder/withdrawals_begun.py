"""Withdrawals that a command was killed in: the mark that the next command knows them by.

The mark goes into the registry together with the owner's withdrawal, and out of it when the owner's
part is gone from experts, router, store and mixture. Until then no version is used.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from fedmore.coordinator.folder.federation import Federation, is_running
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import RECOVERY_ASKED, WITHDRAWALS_BEGUN

NONE: Mapping[str, list[str]] = {"owners": [], "experts": []}


def mark(registry: Registry, name: str, recover: int) -> dict[str, Any]:
    """The states to write down together with the withdrawal of `name`.

    A command that goes on with a withdrawal keeps the recovery rounds that were asked for first.
    """
    before = registry.get_state(WITHDRAWALS_BEGUN, NONE)
    owners = {*before["owners"], name}
    states: dict[str, Any] = {} if name in begun(registry) and not recover else asked(recover)
    experts = {*before["experts"], *experts_of(registry, owners)}
    return states | {WITHDRAWALS_BEGUN: {"owners": sorted(owners), "experts": sorted(experts)}}


def asked(recover: int) -> dict[str, Any]:
    """The state that tells a coordinator that runs of the recovery rounds asked for."""
    return {RECOVERY_ASKED: recover}


def begun(registry: Registry) -> list[str]:
    """The owners whose withdrawal a command has begun and not finished."""
    return sorted(registry.withdrawn() & set(registry.get_state(WITHDRAWALS_BEGUN, NONE)["owners"]))


def unfinished(registry: Registry) -> list[str]:
    """The owners who have withdrawn and whose part is still here, if only in some places."""
    gone = registry.withdrawn()
    left = {name for name in gone if experts_of(registry, {name})} if gone else set()
    return sorted({*left, *begun(registry)})


def experts_of(registry: Registry, owners: AbstractSet[str]) -> set[str]:
    """The experts in whose versions, or whose state after its last round, `owners` have a part."""
    last = {row.stage: row for row in registry.rounds()}
    entries = [item for row in last.values() for item in row.metrics.get("experts", {}).items()]
    entries += [(row.name, row.metrics) for row in registry.experts()]
    return {name for name, entry in entries if owners & set(entry.get("owners", ()))}


def told(federation: Federation) -> list[str]:
    """What `coordinator status` says of it: a line for every owner; a running plan needs none."""
    if is_running(federation.directory):
        return []
    return [line(federation.directory, name) for name in unfinished(federation.registry)]


def line(directory: Path, name: str) -> str:
    """What is wrong, and the command that puts it right."""
    return (
        f"{name} has withdrawn and its part is not gone yet: "
        f"`coordinator withdraw {directory} {name}` takes it out, and so does `coordinator start`"
    )
