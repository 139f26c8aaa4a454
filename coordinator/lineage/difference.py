"""Two versions side by side: settings, owners, ranks, norms, and the distance of their products."""

from collections.abc import Mapping
from typing import Any

from safetensors.torch import load

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.records import record_of
from fedmore.coordinator.store.records import ExpertRow
from fedmore.experts.factors import Factors, from_state
from fedmore.kernels.determinism import one_thread
from fedmore.kernels.lowrank_sum import cpu as lowrank_sum

SETTINGS = ("kind", "origin", "base", "config", "fedmore", "details")


def compare(federation: Federation, one: ExpertRow, two: ExpertRow) -> dict[str, Any]:
    """What differs between two versions, as JSON.

    `distance` is the Frobenius norm of the difference of the products, over the norm of the first;
    None if that is zero. Of products no full matrix is formed.
    """
    first, second = (_factors(federation, row) for row in (one, two))
    before, after = (record_of(federation, row) or {} for row in (one, two))
    owners = [set(row.metrics.get("owners", ())) for row in (one, two)]
    norms = [_norm(first), _norm(second)]
    return {
        "experts": [one.name, two.name],
        "versions": [one.digest, two.digest],
        "ranks": [_spread(first), _spread(second)],
        "params": [one.params, two.params],
        "norms": norms,
        "distance": _distance(first, second) / norms[0] if norms[0] else None,
        "owners_added": sorted(owners[1] - owners[0]),
        "owners_gone": sorted(owners[0] - owners[1]),
        "contributions_changed": _changed(before, after),
        "settings": {
            key: [before.get(key), after.get(key)]
            for key in SETTINGS
            if before.get(key) != after.get(key)
        },
        "scores": [row.metrics.get("scores") for row in (one, two)],
    }


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Owners of both versions whose contribution is another one."""
    old, new = before.get("owners", {}), after.get("owners", {})
    return sorted(name for name in old.keys() & new.keys() if old[name] != new[name])


def _factors(federation: Federation, row: ExpertRow) -> Factors:
    return from_state(load(federation.store.get(row.digest)))


def _spread(factors: Factors) -> list[int]:
    """Least and largest rank over the matrices; a full-size matrix has its full rank."""
    found = [min(c[0].shape) if len(c) == 1 else c[1].shape[0] for c in factors.values()]
    return [min(found, default=0), max(found, default=0)]


def _norm(factors: Factors) -> float:
    with one_thread():
        parts = (lowrank_sum.norm([lowrank_sum.term(c, 1.0)]) for c in factors.values())
        return float(sum(part**2 for part in parts) ** 0.5)


def _distance(one: Factors, two: Factors) -> float:
    """Norm of the difference; a matrix that only one of them has counts in full."""
    total = 0.0
    with one_thread():
        for path in sorted(one.keys() | two.keys()):
            both = ((one, 1.0), (two, -1.0))
            terms = [lowrank_sum.term(f[path], sign) for f, sign in both if path in f]
            total += lowrank_sum.norm(terms) ** 2
    return float(total**0.5)
