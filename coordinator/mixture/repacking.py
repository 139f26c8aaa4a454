"""A stored expert at another rank: `coordinator repack`.

The change is cut to its leading directions, whose singular values both factors share, so alpha
begins anew (LoRA-Squeeze, arXiv 2602.10993). What it was made from stays, and every repacking
begins from that: cutting twice loses no more than cutting once.
"""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save

from fedmore.coordinator.folder.federation import open_federation, running_alone
from fedmore.coordinator.mixture.versions import REPACKED, drop_unused
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.records import ExpertRow
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.conversion.change import cut
from fedmore.experts.errors import RankError
from fedmore.experts.factors import from_state, num_parameters, ranks, to_state


@dataclass(frozen=True)
class Repacked:
    """A version at its new rank, and how far it is from what it was made from.

    `error` is relative, in the Frobenius norm; `params` are those of what it was made from.
    """

    row: ExpertRow
    error: float
    params: int


def repack(directory: Path, name: str, rank: int) -> Repacked:
    """Keep the newest version of `name` with at most `rank` directions in every matrix.

    A rank that is no lower than the version's own restores it. Raises `RegistryError` for an
    unknown expert, `RankError` for a rank below 1, and `TransportError` while a coordinator runs.
    """
    if rank < 1:
        raise RankError(f"--rank {rank}: an expert has a rank of 1 or more")
    with running_alone(directory), open_federation(directory) as federation:
        federation.registry.database.check_writable()
        return repacked(federation.registry, federation.store, name, rank)


def repacked(registry: Registry, store: Store, name: str, rank: int) -> Repacked:
    """Keep the newest version of an expert at another rank; see `repack`."""
    row = registry.latest(name)
    whole = row.metrics.get(REPACKED, {}).get("from", row.digest)
    factors = from_state(load(store.get(whole)))
    kept, error = cut(factors, rank)
    metrics = {key: value for key, value in row.metrics.items() if key != REPACKED}
    digest = whole
    if error:
        digest = store.put(save(to_state(kept)))
        metrics[REPACKED] = {"from": whole, "rank": rank, "error": error}
    new = registry.add_expert(
        name=name,
        kind=row.kind,
        target=row.target,
        rank=max(ranks(kept).values()),
        params=num_parameters(kept),
        stage=row.stage,
        round=row.round,
        digest=digest,
        metrics=metrics,
    )
    drop_unused(registry, store, [row.digest])
    return Repacked(new, error, num_parameters(factors))
