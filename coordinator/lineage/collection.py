"""Finds versions that nothing needs any more, and deletes them."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import ON_HOLD, forget_gone, promoted, state_of
from fedmore.coordinator.lineage.records import LINEAGE
from fedmore.coordinator.store.records import ExpertRow
from fedmore.coordinator.tasks.blob_references import live

KEEP = 2
"""Versions of each expert beside the promoted and the newest one that stay for `restore`."""


@dataclass(frozen=True)
class Garbage:
    """What a collection deletes: versions, and blobs that only these need, with their bytes."""

    versions: Sequence[ExpertRow]
    blobs: Sequence[str]
    size: int


def garbage(federation: Federation, keep: int = KEEP) -> Garbage:
    """What can be deleted: all versions but the promoted, the newest and `keep` older ones.

    This is per expert. Held versions cannot be restored, so they do not count among the `keep`.
    """
    registry, store = federation.registry, federation.store
    rows = registry.experts()
    doomed = [
        row
        for name in sorted({row.name for row in rows})
        for row in _old([row for row in rows if row.name == name], federation, keep)
    ]
    ids = {row.id for row in doomed}
    named = {d for row in rows if row.id in ids for d in _named(row)} | _of_rounds(federation)
    needed = {d for row in rows if row.id not in ids for d in _named(row)}
    needed |= live(registry.database, registry.digests_beside_versions)
    blobs = sorted(digest for digest in named - needed if store.has(digest))
    size = sum(store.path(digest).stat().st_size for digest in blobs)
    return Garbage(doomed, blobs, size)


def collect(federation: Federation, found: Garbage) -> None:
    """Delete it: first the rows, in one transaction, then the blobs, by way of the trash.

    A kill in between leaves blobs that nothing refers to; the next `gc` or `start` finds them.
    """
    federation.registry.drop_versions([row.id for row in found.versions])
    forget_gone(federation.registry)
    for digest in found.blobs:
        federation.store.delete(digest)


def _old(rows: Sequence[ExpertRow], federation: Federation, keep: int) -> list[ExpertRow]:
    registry = federation.registry
    used, newest = promoted(registry, rows[-1].name), rows[-1]
    others = [
        row
        for row in rows
        if row.digest != newest.digest and not (used and row.digest == used.digest)
    ]
    able = [row for row in others if state_of(registry, row) != ON_HOLD]
    spared = {row.id for row in (able[-keep:] if keep else [])}
    return [row for row in others if row.id not in spared]


def _of_rounds(federation: Federation) -> set[str]:
    """Digests of the tensors that rounds made; one that no version has can be deleted."""
    entries = (row.metrics.get("experts", {}) for row in federation.registry.rounds())
    return {each["digest"] for entry in entries for each in entry.values() if "digest" in each}


def _named(row: ExpertRow) -> set[str]:
    whole = row.metrics.get("repacked", {}).get("from")
    return {row.digest, *filter(None, (row.metrics.get(LINEAGE), whole))}
