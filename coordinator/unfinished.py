"""A withdrawal that a command was killed in: the next command knows of it, and finishes it.

The mark goes into the registry together with the owner's withdrawal, and out of it when the owner's
part is gone from experts, router, store and mixture. Until then no version is used.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import (
    Federation,
    is_running,
    open_federation,
    running_alone,
)
from fedmore.coordinator.folder.layout import MIXTURE
from fedmore.coordinator.store import state_keys
from fedmore.coordinator.store.registry import Registry

BEGUN = "withdrawals_begun"
"""State: `owners` whose part a command was to take out, and the `experts` that had one then."""

NONE: Mapping[str, list[str]] = {"owners": [], "experts": []}


def mark(registry: Registry, name: str, recover: int) -> dict[str, Any]:
    """The states to write down together with the withdrawal of `name`.

    A command that goes on with a withdrawal keeps the recovery rounds that were asked for first.
    """
    before = registry.get_state(BEGUN, NONE)
    owners = {*before["owners"], name}
    states: dict[str, Any] = {} if name in begun(registry) and not recover else asked(recover)
    experts = {*before["experts"], *experts_of(registry, owners)}
    return states | {BEGUN: {"owners": sorted(owners), "experts": sorted(experts)}}


def asked(recover: int) -> dict[str, Any]:
    """The state that tells a coordinator that runs of the recovery rounds asked for."""
    return {state_keys.RECOVERY_ASKED: recover}


def begun(registry: Registry) -> list[str]:
    """The owners whose withdrawal a command has begun and not finished."""
    return sorted(registry.withdrawn() & set(registry.get_state(BEGUN, NONE)["owners"]))


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


def finish(federation: Federation, *, forget: bool = True) -> tuple[list[str], bool]:
    """Take the part of every withdrawn owner out of all that is here.

    Returns the experts that this, or the command before it, has changed, and whether there was a
    mixture that had to go. With `forget` off a mixture stays for `assemble` to go on from; its mark
    keeps everybody else from using it. No round may be running.
    """
    from fedmore.coordinator.mixture.withdrawal import leave_out
    from fedmore.coordinator.run.recovery import open_journal

    registry, store = federation.registry, federation.store
    experts = set(registry.get_state(BEGUN, NONE)["experts"])
    changed = leave_out(recovery_rounds.asked_for(federation.config, registry), registry, store)
    open_journal(federation).ledger.sweep()
    outdated = forget and forget_outdated(federation)
    registry.set_state(BEGUN, NONE)
    return sorted({*experts, *changed}), outdated


def forget_outdated(federation: Federation) -> bool:
    """Remove the mixture unless it was made without everybody who has withdrawn."""
    from fedmore.coordinator.mixture.validity import check_current
    from fedmore.experts.errors import RegistryError
    from fedmore.experts.mixture.checkpoint import forget_mixture

    folder = federation.directory / MIXTURE
    try:
        check_current(federation.directory, folder, federation.registry)
    except RegistryError:  # it is outdated, or not whole
        return forget_mixture(folder)
    return False


def finish_first(directory: Path, finished: str, console: Console) -> None:
    """Before a coordinator serves: finish what a command was killed in.

    A plan whose phase is `finished` has no next aggregate that would leave an owner's part out.
    """
    from fedmore.coordinator.store.state_keys import PHASE

    with ExitStack() as stack:
        federation = stack.enter_context(open_federation(directory))
        stack.enter_context(running_alone(directory))
        stack.enter_context(federation.registry.database.alone())
        over = federation.registry.get_state(PHASE) == finished
        names = (unfinished if over else begun)(federation.registry)
        if names:
            console.print(f"{directory}: first the withdrawal of {', '.join(names)} is finished")
            finish(federation)


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
