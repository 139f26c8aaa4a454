"""Stores what a round, or a withdrawal, makes of experts and router."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from safetensors.torch import save

from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.records import ExpertRow, Kind
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import ROUTER
from fedmore.experts.factors import num_parameters, to_state
from fedmore.experts.routers.serialization import dump_router
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.router_stage.state import RouterState

STATE = "state"
"""Key of a round's metrics: digest of the blob that the next round goes on from."""


REPACKED = "repacked"
"""Key of a version's metrics: the digest that it was made `from`, its `rank` and its `error`."""


def keep_version(
    registry: Registry,
    store: Store,
    state: ExpertState,
    at: tuple[int, int],
    metrics: dict[str, Any],
) -> str:
    """Keep the expert as it is after the stage and round `at`; returns its factors' digest."""
    digest = store.put(save(to_state(state.aggregate)))
    kind: Kind = "adapter" if state.kind == "adapter" else "expert"
    registry.add_expert(
        name=state.name,
        kind=kind,
        target=state.name,
        rank=state.rank,
        params=num_parameters(state.aggregate),
        stage=at[0],
        round=at[1],
        digest=digest,
        metrics=metrics,
    )
    return digest


def keep_router(registry: Registry, store: Store, state: RouterState) -> None:
    """Store this as the router of the clients that assembly takes; it replaces the one before."""
    before = registry.get_state(ROUTER)
    digest = store.put(dump_router(state.router(), state.experts))
    registry.set_state(ROUTER, digest)
    if before and before != digest:
        store.delete(before)


def drop_versions(registry: Registry, store: Store, owners: AbstractSet[str]) -> None:
    """Forget every version that one of `owners` has a part in; blobs that others use stay."""
    rows = registry.experts()
    _drop(registry, store, [row for row in rows if owners & set(row.metrics.get("owners", ()))])


def drop_expert(registry: Registry, store: Store, name: str) -> None:
    """Forget every version of an expert; blobs that others use stay."""
    _drop(registry, store, [row for row in registry.experts() if row.name == name])


def _drop(registry: Registry, store: Store, dropped: Sequence[ExpertRow]) -> None:
    registry.drop_versions([row.id for row in dropped])
    wholes = [row.metrics[REPACKED]["from"] for row in dropped if REPACKED in row.metrics]
    drop_unused(registry, store, [*(row.digest for row in dropped), *wholes])


def drop_unused(registry: Registry, store: Store, digests: Iterable[str]) -> None:
    """Delete those of the blobs that no version consists of or was made from."""
    rows = registry.experts()
    kept = {row.digest for row in rows}
    kept |= {row.metrics[REPACKED]["from"] for row in rows if REPACKED in row.metrics}
    for digest in set(digests) - kept:
        store.delete(digest)
