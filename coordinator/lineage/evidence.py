"""The evidence of a withdrawal: a signed file that says what was removed and what is promised.

What was there is written to the registry before anything is deleted, so a command that was killed
is continued with the same facts. The file's name follows from owner and time, so there is one.
It holds digests, names and times, and nothing of what was withdrawn.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import func, select

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.folder.withdrawals_begun import begun
from fedmore.coordinator.lineage.documents import read_signed, signed
from fedmore.coordinator.lineage.promotion import state_of
from fedmore.coordinator.lineage.records import LINEAGE, program_version
from fedmore.coordinator.pki.signing import signing_key
from fedmore.coordinator.store.blobs import GRACE_S
from fedmore.coordinator.store.journal_models import TaskRecord
from fedmore.coordinator.store.models import now
from fedmore.coordinator.store.records import ExpertRow, Member
from fedmore.coordinator.store.state_keys import (
    EMBEDDINGS,
    EVIDENCE,
    ROUTER,
    WITHDRAWN_BY_OPERATOR,
)
from fedmore.experts.errors import RegistryError
from fedmore.protos.system.files import write_durably

FOLDER, FORMAT = "withdrawals", "fedmore-withdrawal-1"
PREFIX = "sha256:"
"""Before a digest in the registry's state, where a bare one would keep its blob from deletion."""
STATE = "state"
OWNER, OPERATOR = "its owner, by its own client", "the operator, at the owner's wish"
EXACT = "the owner's contribution is gone exactly: it was taken out of the sum"
NOT_EXACT = "not exact: the rule of aggregation does not tell owners apart"
GONE = "the expert is gone: nobody else has a part in it"
BESIDE = "the other owners' contributions were trained beside it, and stay as they are"
GENERAL = (
    "copies that were made elsewhere before, of mixtures, exports or this folder, are out of reach",
    "deleted blobs stay in the store's trash until the time that `trash_until` gives",
)


def begin(federation: Federation, gone: AbstractSet[str]) -> None:
    """Record what is here of each withdrawn owner whose evidence was not begun before."""
    registry = federation.registry
    known: dict[str, Any] = registry.get_state(EVIDENCE, {})
    marked = begun(registry)
    found = {
        owner: facts
        for owner in sorted(gone - known.keys())
        if (facts := _facts(federation, owner)) and (facts["experts"] or owner in marked)
    }
    if found:
        registry.set_state(
            EVIDENCE, known | {name: {"before": each} for name, each in found.items()}
        )


def complete(federation: Federation) -> None:
    """Write the file of each withdrawal whose part has just been removed."""
    registry = federation.registry
    known: dict[str, Any] = registry.get_state(EVIDENCE, {})
    for owner, entry in sorted(known.items()):
        if "file" not in entry:
            member = next(each for each in registry.members() if each.name == owner)
            path = federation.directory / FOLDER / _file_name(member)
            content = _content(federation, member, entry["before"])
            write_durably(path, signed(content, signing_key(federation.directory)))
            known = known | {owner: {"file": path.name}}
            registry.set_state(EVIDENCE, known)


def path_of(federation: Federation, owner: str) -> Path | None:
    """The file of an owner's withdrawal, if there is one."""
    file = federation.registry.get_state(EVIDENCE, {}).get(owner, {}).get("file")
    return federation.directory / FOLDER / file if file else None


def check_files(federation: Federation, key: Ed25519PublicKey) -> list[Path]:
    """Check every evidence file and return them.

    Raises `RegistryError` for one that is altered or missing, or if something that was removed is
    in the registry or the store again.
    """
    rows = {row.digest for row in federation.registry.experts()}
    entries = federation.registry.get_state(EVIDENCE, {})
    files = {entry["file"]: owner for owner, entry in entries.items() if "file" in entry}
    folder = federation.directory / FOLDER
    for path in sorted(folder.glob("*.json")):
        files.setdefault(path.name, "")
    for file, owner in sorted(files.items()):
        path = folder / file
        if not path.exists():
            raise RegistryError(f"{path}: the evidence of a withdrawal is missing; restore it")
        content = read_signed(path.read_bytes(), key, path)
        if content.get("format") != FORMAT or owner not in ("", content.get("owner")):
            raise RegistryError(f"{path}: not the evidence of this withdrawal; restore it")
        for digest in map(_bare, content["removed"]["blobs"]):
            if digest in rows or federation.store.has(digest):
                raise RegistryError(f"{path}: {digest[:12]} was removed, and is here again")
    return [folder / file for file in sorted(files)]


def _facts(federation: Federation, owner: str) -> dict[str, Any]:
    """What is here of an owner, by digest."""
    registry = federation.registry
    rows = [row for row in registry.experts() if owner in row.metrics.get("owners", ())]
    last = {row.stage: row for row in registry.rounds()}
    parts = {
        name: row.metrics.get(STATE, "")
        for row in last.values()
        for name, entry in row.metrics.get("experts", {}).items()
        if owner in entry.get("owners", ())
    }
    node = next(each.node_id for each in registry.members() if each.name == owner)
    return {
        "experts": {
            name: _newest(rows, name) for name in sorted({*parts, *(r.name for r in rows)})
        },
        "versions": [_version(row) for row in rows],
        "states": sorted({_sha(digest) for digest in parts.values() if digest}),
        "embeddings": _sha(registry.get_state(EMBEDDINGS)),
        "router": _sha(registry.get_state(ROUTER)),
        "tasks": _tasks(federation, node),
    }


def _content(federation: Federation, member: Member, before: Mapping[str, Any]) -> dict[str, Any]:
    registry, store, at = federation.registry, federation.store, now()
    named = [before["embeddings"], before["router"], *before["states"]]
    for version in before["versions"]:
        named += [version["version"], version["record"]]
    blobs = sorted({each for each in named if each and not store.has(_bare(each))})
    operator = member.name in registry.get_state(WITHDRAWN_BY_OPERATOR, [])
    return {
        "format": FORMAT,
        "federation": federation.config.federation.name,
        "owner": member.name,
        "withdrawn_at": member.withdrawn_at and member.withdrawn_at.isoformat(timespec="seconds"),
        "authority": OPERATOR if operator else OWNER,
        "reason": member.withdrawn_reason,
        "completed_at": at.isoformat(timespec="seconds"),
        "trash_until": (at + timedelta(seconds=GRACE_S)).isoformat(timespec="seconds"),
        "removed": {
            "versions": before["versions"],
            "blobs": blobs,
            "embedding": before["embeddings"] in blobs,
            "router": before["router"] in blobs,
            "tasks": before["tasks"] - _tasks(federation, member.node_id),
        },
        "experts": {
            name: _changed(federation, name, digest) for name, digest in before["experts"].items()
        },
        "promises": list(GENERAL),
        "fedmore": program_version(),
    }


def _changed(federation: Federation, name: str, before: str) -> dict[str, Any]:
    """An expert before and after, and what can be promised of it."""
    registry = federation.registry
    rows = [row for row in registry.experts() if row.name == name]
    last = [row.metrics["experts"] for row in registry.rounds() if "experts" in row.metrics]
    entry: dict[str, Any] = next((each[name] for each in reversed(last) if name in each), {})
    owners = list(entry.get("owners", ()))
    exact = bool(entry.get("exact_withdrawal", True))
    told = [EXACT if exact else NOT_EXACT, BESIDE] if owners else [GONE]
    after = _version(rows[-1]) | {"state": state_of(registry, rows[-1])} if rows else None
    return {"before": before, "after": after, "owners": owners, "exact": exact, "promises": told}


def _newest(rows: Collection[ExpertRow], name: str) -> str:
    return _sha(next((row.digest for row in reversed(list(rows)) if row.name == name), ""))


def _version(row: ExpertRow) -> dict[str, Any]:
    about = {"expert": row.name, "stage": row.stage, "round": row.round}
    return about | {"version": _sha(row.digest), "record": _sha(row.metrics.get(LINEAGE))}


def _tasks(federation: Federation, node: int) -> int:
    query = select(func.count()).select_from(TaskRecord).where(TaskRecord.node_id == node)
    with federation.registry.database.session() as session:
        return int(session.scalar(query) or 0)


def _file_name(member: Member) -> str:
    assert member.withdrawn_at is not None, "only of those who have withdrawn"
    return f"{member.name}-{member.withdrawn_at:%Y%m%dT%H%M%SZ}.json"


def _sha(digest: str | None) -> str:
    return f"{PREFIX}{digest}" if digest else ""


def _bare(digest: str) -> str:
    return digest.removeprefix(PREFIX)
