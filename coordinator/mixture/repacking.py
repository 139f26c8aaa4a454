"""A stored expert at another rank: `coordinator repack`.

The change is cut to its leading directions, whose singular values both factors share, so alpha
begins anew (LoRA-Squeeze, arXiv 2602.10993). What it was made from stays, and every repacking
begins from that: cutting twice loses no more than cutting once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save

from fedmore.coordinator.folder.federation import Federation, open_federation, running_alone
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.lineage.contributions import plan_digest
from fedmore.coordinator.lineage.records import Origin, Version, add_version, record_of
from fedmore.coordinator.mixture.gate import verdict
from fedmore.coordinator.mixture.versions import (
    JUDGED,
    NESTED,
    NO_STAGE,
    REPACKED,
    admit,
    next_of_no_stage,
)
from fedmore.coordinator.store.records import ExpertRow
from fedmore.experts.conversion.change import cut
from fedmore.experts.conversion.recovery import Recovery, recovered
from fedmore.experts.errors import ConfigError, RankError
from fedmore.experts.factors import Factors, from_state, highest_rank, num_parameters, to_state
from fedmore.experts.reading.documents import read_documents

Mend = Callable[[Factors], Recovery]
"""Train factors on after their rank was cut."""


@dataclass(frozen=True)
class Repacked:
    """A version at its new rank, and how far it is from what it was made from.

    `error` is relative, in the Frobenius norm, before any recovery; `params` are those of what it
    was made from.
    """

    row: ExpertRow
    error: float
    params: int
    recovery: Recovery | None = None


def repack(
    directory: Path, name: str, rank: int, steps: int = 0, text: Path | None = None
) -> Repacked:
    """Keep the newest version of `name` with at most `rank` directions in every matrix.

    With `steps` it is then trained on `text`. A rank that is no lower than the version's own
    restores it. A version of one owner with `nested_ranks` keeps the first `rank` directions as
    they were trained, other versions the leading singular ones. Raises `RegistryError` for an
    unknown expert, `RankError` for a rank below 1, `ConfigError` for steps without a text, and
    `TransportError` while a coordinator runs.
    """
    if rank < 1:
        raise RankError(f"--rank {rank}: an expert has a rank of 1 or more")
    if steps and text is None:
        raise ConfigError("--recover: name a file of text like the expert's by --text")
    with running_alone(directory), open_federation(directory) as federation:
        federation.registry.database.check_writable()
        mend = _mending(federation, text, steps) if steps and text else None
        return repacked(federation, name, rank, mend)


def _mending(federation: Federation, text: Path, steps: int) -> Mend:
    documents, seed = read_documents(text), federation.config.federation.seed
    base = base_of(federation.config)
    return lambda factors: recovered(base, factors, documents, steps, seed)


def repacked(federation: Federation, name: str, rank: int, mend: Mend | None = None) -> Repacked:
    """Keep the newest version of an expert at another rank; see `repack`."""
    registry, store = federation.registry, federation.store
    row = registry.latest(name)
    whole = row.metrics.get(REPACKED, {}).get("from", row.digest)
    factors = from_state(load(store.get(whole)))
    kept, error = cut(factors, rank, nested=bool(row.metrics.get(NESTED)))
    recovery = mend(kept) if mend and error else None
    kept = recovery.factors if recovery else kept
    metrics = {key: value for key, value in row.metrics.items() if key not in (REPACKED, *JUDGED)}
    digest = whole
    if error:
        digest = store.put(save(to_state(kept)))
        metrics[REPACKED] = {"from": whole, "rank": rank, "error": error}
    metrics |= verdict(federation, name, kept)
    made = Version(
        name=name,
        kind=row.kind,
        rank=highest_rank(kept),
        params=num_parameters(kept),
        stage=NO_STAGE,
        round=next_of_no_stage(registry, name),
        digest=digest,
        metrics=metrics,
    )
    new = add_version(federation, made, _origin(federation, row, whole, rank))
    admit(registry, new)
    return Repacked(new, error, num_parameters(factors), recovery)


def _origin(federation: Federation, row: ExpertRow, whole: str, rank: int) -> Origin:
    """Made of the version that is cut; its owners' contributions are those of that version."""
    rows = [each for each in federation.registry.experts() if each.name == row.name]
    source = next((each for each in rows if each.digest == whole), row)
    known = record_of(federation, source) or {}
    owners = known.get("owners") or dict.fromkeys(source.metrics.get("owners", ()), "")
    config = plan_digest(federation.config)
    return Origin("repack", config, owners, [source], {"from": whole, "rank": rank})
