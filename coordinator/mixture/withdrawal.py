"""Removes the part of withdrawn owners from experts, router and store."""

import logging
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage import evidence
from fedmore.coordinator.lineage.promotion import in_use
from fedmore.coordinator.mixture.assemble import load_factors
from fedmore.coordinator.mixture.gate import note
from fedmore.coordinator.mixture.versions import (
    HELD_BACK,
    STATE,
    drop_versions,
    keep_router,
    keep_version,
)
from fedmore.coordinator.mixture.withdrawal_scoring import RECOVERS, Outcome, settle
from fedmore.coordinator.store.records import RoundRow
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import EMBEDDINGS
from fedmore.strategies.embedding_stage import embeddings
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import without
from fedmore.strategies.router_stage.state import dump as dump_routing
from fedmore.strategies.router_stage.state import restore as restore_routing
from fedmore.strategies.stages.expert import FactorStage

log = logging.getLogger(__name__)


def leave_out(federation: Federation) -> list[str]:
    """Make every expert anew that a withdrawn client has a part in; returns the experts' names.

    Versions with its part are removed from registry and store, and so is its domain embedding. An
    expert that withdrawn clients alone have trained is removed, with its row in a router that
    clients trained. A second call changes nothing. What was removed stands in a signed file.
    """
    registry = federation.registry
    gone = registry.withdrawn()
    evidence.begin(federation, gone)
    drop_versions(registry, federation.store, gone)
    changed: list[str] = []
    for index, stage in enumerate(federation.config.stages):
        rows = [row for row in registry.rounds() if row.stage == index]
        if rows and isinstance(stage, FactorStage):
            changed += _leave_out(federation, stage, rows[-1], gone)
    _leave_out_of_embeddings(federation, gone)
    for row in [row for row in registry.rounds() if row.kind == "routing"][-1:]:
        _leave_out_of_router(federation, row, gone)
    evidence.complete(federation)
    return changed


def _leave_out_of_embeddings(federation: Federation, gone: AbstractSet[str]) -> None:
    registry, store = federation.registry, federation.store
    digest = registry.get_state(EMBEDDINGS)
    sent = embeddings.restore(store.get(digest)) if digest else {}
    if not gone & sent.keys():
        return
    left = {name: one for name, one in sent.items() if name not in gone}
    new = store.put(embeddings.dump(left))
    for row in registry.rounds():
        if row.metrics.get(STATE) == digest:
            _replace(row, {**row.metrics, STATE: new}, registry)
    registry.set_state(EMBEDDINGS, new)
    store.delete(digest)


def _leave_out(
    federation: Federation, stage: FactorStage, row: RoundRow, gone: AbstractSet[str]
) -> list[str]:
    store = federation.store
    states = restore(store.get(row.metrics[STATE]), stage)
    entries = dict(row.metrics["experts"])
    touched = sorted(name for name, s in states.items() if gone & set(s.owners))
    for name in touched:
        left, error = without(states[name], gone, stage.max_rank, stage.aggregate_energy)
        outcome = settle(federation.config, states[name], left, error, stage)
        note(federation, stage, row.stage, outcome)
        states[name], entries[name] = outcome.state, _kept(federation, outcome, row)
        log.warning("%s: %s", name, "; ".join(told_of(entries[name])))
    if touched:
        old, new = row.metrics[STATE], store.put(dump(states))
        _replace(row, {**row.metrics, "experts": entries, STATE: new}, federation.registry)
        store.delete(old)
    return touched


def outcomes(registry: Registry, names: Collection[str]) -> dict[str, list[str]]:
    """The lines for an operator about each of these experts, which `leave_out` has changed."""
    entries = {
        name: entry
        for row in registry.rounds()
        for name, entry in row.metrics.get("experts", {}).items()
        if name in names
    }
    return {name: told_of(entry) for name, entry in sorted(entries.items())}


def told_of(entry: Mapping[str, Any]) -> list[str]:
    """The lines for an operator about an expert that a withdrawal has changed."""
    if not entry["owners"]:
        return ["gone, nobody else has a part in it"]
    held, done = HELD_BACK in entry, entry.get("withdrawal", "")
    exact = [] if entry["exact_withdrawal"] else ["not exact: its rule does not tell owners apart"]
    made = f"held back, {done}" if held else f"made anew without it; {done}" if done else ""
    rounds = entry.get(RECOVERS)
    recovers = [f"{rounds} recovery rounds of its remaining owners"] if rounds else []
    return [made or "made anew without it", *recovers, *exact]


def _leave_out_of_router(federation: Federation, row: RoundRow, gone: AbstractSet[str]) -> None:
    """Make the clients' router without the changes of `gone` and rows of removed experts."""
    registry, store = federation.registry, federation.store
    state = restore_routing(store.get(row.metrics[STATE]))
    there = in_use(registry)
    left = [name for name in state.experts if name in there]
    # If no expert is left, there is nothing to route.
    if tuple(left) in ((), state.experts) and not gone & state.parts.keys():
        return
    experts = {name: load_factors(store, there[name]) for name in left}
    kept = state.without(gone)
    kept = kept.of(experts) if experts else kept
    keep_router(registry, store, kept)
    old, new = row.metrics[STATE], store.put(dump_routing(kept))
    _replace(row, {**row.metrics, STATE: new}, registry)
    store.delete(old)


def _kept(federation: Federation, outcome: Outcome, row: RoundRow) -> dict[str, Any]:
    state = outcome.state
    entry = {**state.summary(outcome.error), **outcome.told}
    if not entry["owners"]:
        return entry
    at = (row.stage, row.round)
    return {**entry, "digest": keep_version(federation, state, at, entry, "withdrawal")}


def _replace(row: RoundRow, metrics: dict[str, Any], registry: Registry) -> None:
    registry.add_round(
        stage=row.stage,
        kind=row.kind,
        round=row.round,
        metrics=metrics,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
