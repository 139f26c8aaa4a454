"""The study's result over all seeds: `routing.json`, and a table for a terminal.

Intervals are 95 % Student intervals over seeds of the mean over domains.
"""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

from fedmore.sims.routing.seeds import SeedResult
from fedmore.sims.routing.trial import Trial

RESULT = "routing.json"
PACKAGES = ("torch", "transformers", "flwr", "numpy")


def build(results: Sequence[SeedResult], command: str) -> dict[str, Any]:
    """Everything as JSON; `routers` in the order of the study, all seeds together."""
    return {
        "command": command,
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "seeds": [r.seed for r in results],
        "base": results[0].base_name,
        "experts": results[0].experts,
        "size": results[0].size,
        "base_bpb": _mean(r.mean(r.base) for r in results),
        "oracle_bpb": _mean(r.mean(r.oracle) for r in results),
        "texts": {
            "base": _by_text([r.base for r in results]),
            "oracle": _by_text([r.oracle for r in results]),
        },
        "routers": [_router(results, i) for i in range(len(results[0].trials))],
        "added": [r.added for r in results],
        "withdrawn": [r.withdrawn for r in results],
        "variance": [r.variance for r in results],
    }


def _router(results: Sequence[SeedResult], index: int) -> dict[str, Any]:
    trials = [r.trials[index] for r in results]
    variant = trials[0].variant
    means = [r.mean(r.trials[index].bits_per_byte) for r in results]
    gaps = [_closed(results, index, i) for i in range(len(results))]
    return {
        "name": variant["name"],
        "kind": variant["kind"],
        "k": variant["k"],
        "samples": variant["samples"],
        "level": variant["level"],
        "per_layer": variant["per_layer"],
        "scaling": variant["scaling"],
        "trained_at": variant["trained_at"] or None,
        "mean_bpb": _mean(means),
        "ci95": _ci(means),
        "unseen_bpb": _mean(t.bits_per_byte[results[0].unseen] for t in trials),
        "mixed_bpb": _mean(t.bits_per_byte["mixed"] for t in trials),
        "plain_bpb": _mean(t.bits_per_byte["plain"] for t in trials),
        "gap_closed": _mean(gaps),
        "gap_closed_seeds": gaps,
        "ess_mean": _mean(sum(t.ess) / len(t.ess) for t in trials),
        "active_params": trials[0].active_params,
        "router_params": trials[0].router_params,
        "steps_per_s": _rate(trials),
        "texts": _by_text([t.bits_per_byte for t in trials]),
        "losses": [[round(x, 4) for x in t.losses] for t in trials],
        "ess_steps": [[[round(x, 3) for x in row] for row in t.ess_steps] for t in trials],
    }


def _closed(results: Sequence[SeedResult], index: int, seed: int) -> float | None:
    """Part of the way from the best domain-embedding routing to the per-domain oracle."""
    r = results[seed]
    start = min(r.mean(t.bits_per_byte) for t in r.trials if t.variant["kind"] == "domain")
    goal = r.mean(r.oracle)
    here = r.mean(r.trials[index].bits_per_byte)
    return (start - here) / (start - goal) if start > goal else None


def _rate(trials: Sequence[Trial]) -> float | None:
    rates = [t.steps_per_s for t in trials if t.steps_per_s is not None]
    return _mean(rates) if rates else None


def _mean(values: Any) -> float:
    return float(np.mean([v for v in values if v is not None]))


def _ci(values: Sequence[float]) -> list[float] | None:
    """None for one seed alone."""
    if len(values) < 2:
        return None
    mean, half = np.mean(values), stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return [float(mean - half), float(mean + half)]


def _by_text(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {text: _mean(s[text] for s in scores) for text in scores[0]}


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `routing.json`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("k", lambda r: str(r["k"] or "all")),
    ("M", lambda r: str(r["samples"] or "")),
    ("mean", lambda r: f"{r['mean_bpb']:.3f}"),
    ("95 %", lambda r: "" if r["ci95"] is None else f"{r['ci95'][0]:.3f} to {r['ci95'][1]:.3f}"),
    ("gap closed", lambda r: f"{100 * r['gap_closed']:.0f} %"),
    ("mixed", lambda r: f"{r['mixed_bpb']:.3f}"),
    ("unseen", lambda r: f"{r['unseen_bpb']:.3f}"),
    ("ESS", lambda r: f"{r['ess_mean']:.2f}"),
    ("steps/s", lambda r: "" if r["steps_per_s"] is None else f"{r['steps_per_s']:.2f}"),
)


def table_of(result: Mapping[str, Any]) -> Table:
    """All routers, with the base and the oracle above."""
    title = f"Bits per byte; base {result['base_bpb']:.3f}, oracle {result['oracle_bpb']:.3f}"
    table = Table("router", title=title, box=None)
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for router in result["routers"]:
        table.add_row(router["name"], *(show(router) for _, show in COLUMNS))
    return table
