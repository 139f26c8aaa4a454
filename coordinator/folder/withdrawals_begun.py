"""Marks withdrawals in progress, so that the next command finishes one that was killed.

The mark is written to the registry in one transaction with the owner's withdrawal. It is removed
when the owner's part is gone from experts, router, store and mixture. Until then no version is
used.
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
    """The states to write in one transaction with the withdrawal of `name`.

    A command that continues a withdrawal keeps the recovery rounds that were asked for first.
    """
    before = registry.get_state(WITHDRAWALS_BEGUN, NONE)
    owners = {*before["owners"], name}
    states: dict[str, Any] = {} if name in begun(registry) and not recover else asked(recover)
    experts = {*before["experts"], *experts_of(registry, owners)}
    return states | {WITHDRAWALS_BEGUN: {"owners": sorted(owners), "experts": sorted(experts)}}


def asked(recover: int) -> dict[str, Any]:
    """The state by which a running coordinator learns the recovery rounds that were asked for."""
    return {RECOVERY_ASKED: recover}


def begun(registry: Registry) -> list[str]:
    """The owners whose withdrawal was begun and not finished."""
    return sorted(registry.withdrawn() & set(registry.get_state(WITHDRAWALS_BEGUN, NONE)["owners"]))


def unfinished(registry: Registry) -> list[str]:
    """The withdrawn owners whose part is still present anywhere."""
    gone = registry.withdrawn()
    left = {name for name in gone if experts_of(registry, {name})} if gone else set()
    return sorted({*left, *begun(registry)})


def experts_of(registry: Registry, owners: AbstractSet[str]) -> set[str]:
    """The experts with a part of `owners` in a version or in the state after the last round."""
    last = {row.stage: row for row in registry.rounds()}
    entries = [item for row in last.values() for item in row.metrics.get("experts", {}).items()]
    entries += [(row.name, row.metrics) for row in registry.experts()]
    return {name for name, entry in entries if owners & set(entry.get("owners", ()))}


def told(federation: Federation) -> list[str]:
    """The lines of `coordinator status`, one per owner; empty while a coordinator runs."""
    if is_running(federation.directory):
        return []
    return [line(federation.directory, name) for name in unfinished(federation.registry)]


def line(directory: Path, name: str) -> str:
    """A line with the problem and the command that solves it."""
    return (
        f"{name} has withdrawn and its part is not gone yet: "
        f"`coordinator withdraw {directory} {name}` takes it out, and so does `coordinator start`"
    )
