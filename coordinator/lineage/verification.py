"""Checks versions and signed files of a folder against the federation's key, without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.documents import read_signed
from fedmore.coordinator.lineage.evidence import check_files
from fedmore.coordinator.lineage.promotion import entries
from fedmore.coordinator.lineage.records import FORMAT, LINEAGE
from fedmore.coordinator.pki.signing import fingerprint_of, has_key, verifying_key
from fedmore.coordinator.store.records import ExpertRow
from fedmore.experts.errors import ConfigError, FedmoreError, RegistryError

SAME = ("kind", "rank", "params", "stage", "round")
"""What a record and the registry both say of a version, by the same name."""


@dataclass(frozen=True)
class Verified:
    """What was checked: signed versions, versions without a record, and evidence files.

    `key` is the fingerprint of the public key, to compare with one that was noted elsewhere.
    """

    key: str
    signed: Sequence[ExpertRow]
    unsigned: Sequence[ExpertRow]
    withdrawals: Sequence[Path]


def verify(federation: Federation, public: Path | None = None) -> Verified:
    """Check every version: its record, its signature, its tensors, its parents.

    `public` is a copy of the public key that somebody kept elsewhere. Raises `RegistryError` with a
    line for each fault.
    """
    rows = federation.registry.experts()
    if not has_key(federation.directory) and public is None:
        if any(row.metrics.get(LINEAGE) for row in rows):
            raise ConfigError(f"{federation.directory}: tls/lineage.pub is missing; restore it")
        return Verified("", (), rows, ())
    key = verifying_key(federation.directory, public)
    faults: list[str] = []
    for row in rows:
        try:
            check_version(federation, key, row, rows)
        except FedmoreError as error:
            faults.append(f"{row.name} {row.digest[:12]}: {error}")
    for name, entry in entries(federation.registry).items():
        try:
            _check_restored(federation, key, name, entry)
        except FedmoreError as error:
            faults.append(f"{name}, restored: {error}")
    try:
        files = check_files(federation, key)
    except FedmoreError as error:
        files = []
        faults.append(str(error))
    if faults:
        raise RegistryError(f"{federation.directory}: not as it was signed: {'; '.join(faults)}")
    signed = [row for row in rows if row.metrics.get(LINEAGE)]
    unsigned = [row for row in rows if not row.metrics.get(LINEAGE)]
    return Verified(fingerprint_of(key), signed, unsigned, files)


def check_version(
    federation: Federation, key: Ed25519PublicKey, row: ExpertRow, rows: Sequence[ExpertRow]
) -> None:
    """Raise `RegistryError` unless the version is as its record says.

    An earlier version of fedmore signed none. So a version without a record is accepted only if no
    older version has one.
    """
    federation.store.check(row.digest)
    digest = row.metrics.get(LINEAGE)
    if not digest:
        if any(other.metrics.get(LINEAGE) for other in rows if other.id < row.id):
            raise RegistryError("its record was taken away; restore the folder from a copy")
        return
    path = federation.store.path(digest)
    content = read_signed(federation.store.get(digest), key, path)
    wanted: dict[str, Any] = {field: getattr(row, field) for field in SAME}
    wanted |= {"expert": row.name, "version": row.digest, "format": FORMAT}
    wrong = [field for field, value in wanted.items() if content.get(field) != value]
    if sorted(content.get("owners", ())) != sorted(row.metrics.get("owners", ())):
        wrong.append("owners")
    if wrong:
        raise RegistryError(
            f"{path}: the record is of another version, or the registry was changed "
            f"({', '.join(wrong)} differ); restore the folder from a copy"
        )
    _check_parents(content, rows, path)


def _check_restored(
    federation: Federation, key: Ed25519PublicKey, name: str, entry: Mapping[str, Any]
) -> None:
    """A restored version has a record of that decision."""
    if digest := entry.get("record"):
        path = federation.store.path(digest)
        content = read_signed(federation.store.get(digest), key, path)
        found = [content.get(field) for field in ("expert", "version", "origin")]
        if found != [name, entry["promoted"], "restore"]:
            raise RegistryError(f"{path}: the record is of another decision; restore the folder")


def _check_parents(content: dict[str, Any], rows: Sequence[ExpertRow], path: Path) -> None:
    """A parent that is still here must have the record that the child's record names."""
    known: dict[str, set[str]] = {}
    for row in rows:
        known.setdefault(row.digest, set()).add(str(row.metrics.get(LINEAGE, "")))
    for parent in content["parents"]:
        here = known.get(parent["version"])
        if here is not None and parent["record"] not in here:
            raise RegistryError(
                f"{path}: its parent {parent['version'][:12]} has another record than it had; "
                "restore the folder from a copy"
            )
