"""An operator's decisions on versions: promote, hold, restore. Each is an event in the registry.

None of them touches what the next round trains on. That goes on from the state after the last
round, and its version is promoted again unless the gate holds it.
"""

from collections.abc import Callable
from pathlib import Path

from fedmore.coordinator.folder.federation import Federation, open_federation, running_alone
from fedmore.coordinator.lineage.promotion import (
    PROMOTED,
    entry_of,
    hold,
    named,
    promote,
    promoted,
    state_of,
    write_entry,
)
from fedmore.coordinator.lineage.records import restore_record
from fedmore.coordinator.store.records import ExpertRow
from fedmore.experts.errors import RegistryError

Decision = tuple[ExpertRow, ExpertRow | None]
"""The version that was named, and the one that was in use before, or is in use instead."""


def promote_version(directory: Path, text: str) -> Decision:
    """Put a version into use that is newer than the promoted one, also one that is held."""

    def decide(federation: Federation, row: ExpertRow, used: ExpertRow | None) -> ExpertRow | None:
        if used is not None and row.id < used.id:
            raise RegistryError(
                f"{text}: older than the promoted version {used.digest[:12]}; "
                "`coordinator experts restore` goes back to it"
            )
        promote(federation.registry, row)
        return used

    return _decided(directory, text, "promoted", decide)


def restore_version(directory: Path, text: str) -> Decision:
    """Put a version into use again that is older than the promoted one; a record is signed."""

    def decide(federation: Federation, row: ExpertRow, used: ExpertRow | None) -> ExpertRow | None:
        registry = federation.registry
        if used is None or row.id > used.id:
            raise RegistryError(
                f"{text}: not older than the version in use; `coordinator experts promote` puts a "
                "held or newer one into use"
            )
        record = restore_record(federation, row, used)
        promote(registry, row)
        write_entry(registry, row.name, entry_of(registry, row.name) | {"record": record})
        return used

    return _decided(directory, text, "restored", decide)


def hold_version(directory: Path, text: str, why: str) -> Decision:
    """Keep a version out of mixtures; returns it and the version that is in use instead."""

    def decide(federation: Federation, row: ExpertRow, _: ExpertRow | None) -> ExpertRow | None:
        return hold(federation.registry, row, why or "by the operator")

    return _decided(directory, text, "held", decide, why)


def _decided(
    directory: Path,
    text: str,
    word: str,
    decide: Callable[[Federation, ExpertRow, ExpertRow | None], ExpertRow | None],
    why: str = "",
) -> Decision:
    with running_alone(directory), open_federation(directory) as federation:
        registry = federation.registry
        registry.database.check_writable()
        row = named(registry, text)
        if word != "held" and state_of(registry, row) == PROMOTED:
            raise RegistryError(f"{text}: {row.digest[:12]} is the promoted version already")
        other = decide(federation, row, promoted(registry, row.name))
        registry.add_event(word, row.name, {"version": row.digest[:12], "why": why})
        return row, other
