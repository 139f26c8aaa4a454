"""Records of versions: what each was made of, signed when the version is stored.

The record is a blob, which the version's metrics name. It repeats what the registry says of the
version, so a changed registry does not fit its records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.documents import canonical, parsed, signed
from fedmore.coordinator.pki.signing import signing_key
from fedmore.coordinator.store.models import now
from fedmore.coordinator.store.records import ExpertRow, Kind
from fedmore.experts.errors import RegistryError

LINEAGE = "lineage"
"""Key of a version's metrics: the digest of its record."""
FORMAT = "fedmore-lineage-1"
OriginKind = Literal["round", "import", "repack", "withdrawal", "restore"]


@dataclass(frozen=True)
class Version:
    """What a version is, as the registry stores it.

    Args:
        name: the expert.
        kind: expert or adapter.
        rank: highest rank of its matrices.
        params: number of its parameters.
        stage: index of the stage; -1 for one that no stage made.
        round: number of the round, or of the version that no stage made.
        digest: digest of the blob with its tensors.
        metrics: metrics of the round.

    """

    name: str
    kind: Kind
    rank: int
    params: int
    stage: int
    round: int
    digest: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """How a version came to be.

    `owners` gives the digest of each owner's contribution, `parents` the versions that it was made
    from, `details` what is special to its kind. `config` is the digest of the plan.
    """

    kind: OriginKind
    config: str
    owners: Mapping[str, str] = field(default_factory=dict)
    parents: Sequence[ExpertRow] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def add_version(federation: Federation, made: Version, origin: Origin) -> ExpertRow:
    """Store a version with its signed record.

    A version that is made again as it was, after a kill, keeps its record.
    """
    registry = federation.registry
    record = _same(federation, made, origin) or federation.store.put(
        signed(content_of(federation, made, origin), signing_key(federation.directory))
    )
    return registry.add_expert(
        name=made.name,
        kind=made.kind,
        target=made.name,
        rank=made.rank,
        params=made.params,
        stage=made.stage,
        round=made.round,
        digest=made.digest,
        metrics={**made.metrics, LINEAGE: record},
    )


def restore_record(federation: Federation, row: ExpertRow, used: ExpertRow | None) -> str:
    """Store a signed record that an older version is in use again; returns its digest.

    Its parents are that version and the one that was in use until then.
    """
    known = record_of(federation, row) or {}
    names = ("name", "kind", "rank", "params", "stage", "round", "digest", "metrics")
    made = Version(**{name: getattr(row, name) for name in names})
    parents = [each for each in (row, used) if each is not None]
    origin = Origin("restore", str(known.get("config", "")), known.get("owners", {}), parents)
    document = signed(content_of(federation, made, origin), signing_key(federation.directory))
    return federation.store.put(document)


def content_of(federation: Federation, made: Version, origin: Origin) -> dict[str, Any]:
    """The content of the record of a version that is made now."""
    config = federation.config
    return {
        "format": FORMAT,
        "federation": config.federation.name,
        "expert": made.name,
        "kind": made.kind,
        "version": made.digest,
        "rank": made.rank,
        "params": made.params,
        "stage": made.stage,
        "round": made.round,
        "origin": origin.kind,
        "owners": dict(origin.owners),
        "parents": [reference(row) for row in origin.parents],
        "details": dict(origin.details),
        "base": config.base.fingerprint,
        "config": origin.config,
        "at": now().isoformat(timespec="seconds"),
        "fedmore": program_version(),
    }


def reference(row: ExpertRow) -> dict[str, str]:
    """How a record refers to another version; `record` is empty for one that was not signed."""
    return {"version": row.digest, "record": str(row.metrics.get(LINEAGE, ""))}


def record_of(federation: Federation, row: ExpertRow) -> dict[str, Any] | None:
    """What the record of a version says, unverified; None if the version was not signed."""
    digest = row.metrics.get(LINEAGE)
    if not digest:
        return None
    path = federation.store.path(digest)
    content: dict[str, Any] = parsed(federation.store.get(digest), path)["content"]
    return content


def parents_of(federation: Federation, name: str) -> list[ExpertRow]:
    """The newest version of an expert, from which the next one goes on; none for the first."""
    return [row for row in federation.registry.experts() if row.name == name][-1:]


def program_version() -> str:
    """The version of this program; empty in a checkout that was never installed."""
    try:
        return version("fedmore")
    except PackageNotFoundError:
        return ""


def _same(federation: Federation, made: Version, origin: Origin) -> str:
    """The record of the version that is there, if it says the same but for the time."""
    for row in federation.registry.experts():
        there = (row.name, row.stage, row.round, row.digest)
        if there != (made.name, made.stage, made.round, made.digest):
            continue
        try:
            known = record_of(federation, row)
        except RegistryError:  # damaged: a new one is made
            return ""
        fresh = content_of(federation, made, origin)
        if known and _timeless(known) == _timeless(fresh):
            return str(row.metrics[LINEAGE])
    return ""


def _timeless(content: Mapping[str, Any]) -> bytes:
    return canonical({k: v for k, v in content.items() if k not in ("at", "parents")})
