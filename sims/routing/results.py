"""The study's result over all seeds as `routing.json`.

Intervals are 95 % Student intervals over seeds of the mean over domains.
"""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fedmore.sims.bench.machine import machine
from fedmore.sims.routing.claims import claims
from fedmore.sims.routing.material import MIXED
from fedmore.sims.routing.seeds import SeedResult
from fedmore.sims.routing.trial import Trial

RESULT = "routing.json"
PACKAGES = ("torch", "transformers", "flwr", "numpy")
POINTS = 50
"""Of a training curve."""
SHOWN = ("name", "kind", "k", "samples", "level", "per_layer", "scaling", "start", "rate")


def build(results: Sequence[SeedResult], command: str) -> dict[str, Any]:
    """Everything as JSON; `routers` in the order of the study, all seeds together."""
    first = results[0]
    found = {
        "command": command,
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "machine": machine(),
        "seeds": [r.seed for r in results],
        "base": first.base_name,
        "experts": first.experts,
        "unseen": first.unseen,
        "size": first.size,
        "base_bpb": _mean(r.mean(r.base) for r in results),
        "oracle_bpb": _mean(r.mean(r.oracle) for r in results),
        "texts": {
            "base": _by_key([r.base for r in results]),
            "oracle": _by_key([r.oracle for r in results]),
        },
        "routers": [_router(results, i) for i in range(len(first.trials))],
        "added": [r.added for r in results],
        "withdrawn": [r.withdrawn for r in results],
        "variance": [r.variance for r in results],
        "cost": [r.cost for r in results],
        "positions": [_part(each) for each in zip(*(r.positions for r in results), strict=True)],
    }
    return found | {"claims": claims(found)}


def _router(results: Sequence[SeedResult], index: int) -> dict[str, Any]:
    trials = [r.trials[index] for r in results]
    variant = trials[0].variant
    means = [r.mean(r.trials[index].bits_per_byte) for r in results]
    gaps = [_closed(r, r.mean(r.trials[index].bits_per_byte)) for r in results]
    return {
        **{key: variant[key] for key in SHOWN},
        "trained_at": variant["trained_at"] or None,
        "mean_bpb": _mean(means),
        "ci95": interval(means),
        "unseen_bpb": _mean(t.bits_per_byte[results[0].unseen] for t in trials),
        "mixed_bpb": _mean(t.bits_per_byte[MIXED] for t in trials),
        "plain_bpb": _mean(t.bits_per_byte["plain"] for t in trials),
        "gap_closed": _mean(gaps),
        "gap_closed_seeds": gaps,
        "ess_mean": _mean(sum(t.ess) / len(t.ess) for t in trials),
        "ess_layers": np.mean([t.ess for t in trials], axis=0).round(3).tolist(),
        "active_params": trials[0].active_params,
        "router_params": trials[0].router_params,
        "steps_per_s": _rate(trials),
        "texts": _by_key([t.bits_per_byte for t in trials]),
        "losses": [thinned(t.losses, 4) for t in trials],
        "ess_steps": [thinned(t.ess_steps, 3) for t in trials],
    }


def thinned(values: Sequence[Any], digits: int) -> list[Any]:
    """Means over so many steps that `POINTS` are left; all values where there are no more."""
    if len(values) <= POINTS:
        return np.round(values, digits).tolist()  # type: ignore[no-any-return]
    parts = np.array_split(np.asarray(values), POINTS)
    return [np.round(part.mean(0), digits).tolist() for part in parts]


def _closed(result: SeedResult, here: float) -> float | None:
    """Part of the way from the best domain-embedding routing to the per-domain oracle."""
    domain = [t for t in result.trials if t.variant["kind"] == "domain"]
    start = min(result.mean(t.bits_per_byte) for t in domain)
    goal = result.mean(result.oracle)
    return (start - here) / (start - goal) if start > goal else None


def _rate(trials: Sequence[Trial]) -> float | None:
    rates = [t.steps_per_s for t in trials if t.steps_per_s is not None]
    return _mean(rates) if rates else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Of the values that there are; None where there are none."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def interval(values: Sequence[float]) -> list[float] | None:
    """None for one seed alone."""
    if len(values) < 2:
        return None
    mean, half = np.mean(values), stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return [float(mean - half), float(mean + half)]


def _part(seeds: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    return _by_key(seeds) | {edge: seeds[0][edge] for edge in ("from", "to")}


def _by_key(scores: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    return {text: _mean(s[text] for s in scores) for text in scores[0]}


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `routing.json`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
