"""Stores what a round, or a withdrawal, makes of experts and router."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from safetensors.torch import save

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.contributions import digests_by_owner, plan_digest
from fedmore.coordinator.lineage.promotion import forget_gone, hold, promote
from fedmore.coordinator.lineage.records import LINEAGE, Origin, OriginKind, Version, add_version
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.records import ExpertRow, Kind
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import ROUTER
from fedmore.experts.factors import num_parameters, to_state
from fedmore.experts.routers.serialization import dump_router
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.router_stage.state import RouterState
from fedmore.strategies.stages.expert import FactorStage

NO_STAGE = -1
"""The stage of a version that no stage of the plan has made: imported, or at another rank."""

STATE = "state"
"""Key of a round's metrics: digest of the blob that the next round goes on from."""


HELD_BACK = "held_back"
"""Key of a version's metrics: the reason why it is held."""

JUDGED = (HELD_BACK, "scores", "withdrawal", "gate")
"""Keys of a version's metrics that say how it was judged."""

NESTED = "nested"
"""Key of a version's metrics: its factors are in the order in which every prefix was trained."""

REPACKED = "repacked"
"""Key of a version's metrics: the digest that it was made `from`, its `rank` and its `error`."""


def keep_version(
    federation: Federation,
    state: ExpertState,
    at: tuple[int, int],
    metrics: dict[str, Any],
    origin: OriginKind = "round",
) -> str:
    """Keep the expert as it is after the stage and round `at`; returns its factors' digest.

    The version is promoted, or held if its metrics say why (`HELD_BACK`). Of one owner with
    `nested_ranks` it has the owner's own order of directions.
    """
    stage = federation.config.stages[at[0]]
    nested = state.nested() if isinstance(stage, FactorStage) and stage.nested_ranks else {}
    if nested:
        metrics = {**metrics, NESTED: True}
    factors = nested or state.aggregate
    digest = federation.store.put(save(to_state(factors)))
    kind: Kind = "adapter" if state.kind == "adapter" else "expert"
    params = num_parameters(factors)
    made = Version(state.name, kind, state.rank, params, *at, digest, metrics)
    admit(
        federation.registry, add_version(federation, made, _origin(federation, state, at, origin))
    )
    return digest


def admit(registry: Registry, row: ExpertRow) -> None:
    """Promote a new version, or hold it if its metrics say why."""
    if why := row.metrics.get(HELD_BACK):
        hold(registry, row, why, row.metrics.get("scores"))
    else:
        promote(registry, row)


def _origin(
    federation: Federation, state: ExpertState, at: tuple[int, int], kind: OriginKind
) -> Origin:
    stage, config = federation.config.stages[at[0]], federation.config
    rows = [row for row in federation.registry.experts() if row.name == state.name]
    before = [row for row in rows if (row.stage, row.round) != at][-1:]
    details = {"stage": stage.kind}
    if isinstance(stage, FactorStage):
        details |= {"codec": stage.codec, "aggregation": stage.aggregation}
    return Origin(kind, plan_digest(config), digests_by_owner(state), before, details)


def next_of_no_stage(registry: Registry, name: str) -> int:
    """The number for the next version of an expert that no stage makes."""
    rows = [row for row in registry.experts() if (row.name, row.stage) == (name, NO_STAGE)]
    return 1 + max((row.round for row in rows), default=-1)


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


def _drop(registry: Registry, store: Store, dropped: Sequence[ExpertRow]) -> None:
    registry.drop_versions([row.id for row in dropped])
    forget_gone(registry)
    drop_unused(registry, store, {digest for row in dropped for digest in blobs_of(row)})


def blobs_of(row: ExpertRow) -> set[str]:
    """The blobs that a version needs: its tensors, its record, and what it was cut from."""
    record, whole = row.metrics.get(LINEAGE), row.metrics.get(REPACKED, {}).get("from")
    return {row.digest, *filter(None, (record, whole))}


def drop_unused(registry: Registry, store: Store, digests: Iterable[str]) -> None:
    """Delete those of the blobs that no version consists of or was made from."""
    rows = registry.experts()
    kept = {digest for row in rows for digest in blobs_of(row)}
    for digest in set(digests) - kept:
        store.delete(digest)
