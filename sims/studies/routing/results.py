"""The study's result over all seeds as `routing.json`.

`ci95` is over documents; one that is scored in several seeds is one cluster. `ci95_seeds` is over
seeds. The file also has the nats of all documents, so that claims can be judged from it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmore.experts.errors import ConfigError
from fedmore.sims.bench.machine import machine
from fedmore.sims.studies import finished
from fedmore.sims.studies.routing.claims import claims
from fedmore.sims.studies.routing.figures import Seeds, bits_per_byte, mean_of, part_of_way
from fedmore.sims.studies.routing.material import MIXED
from fedmore.sims.studies.routing.seeds import SeedResult
from fedmore.sims.studies.routing.trial import Trial

RESULT = "routing.json"
PACKAGES = (*finished.PACKAGES, "flwr", "numpy")
POINTS = 50
"""Number of points of a training curve."""
SHOWN = ("name", "kind", "k", "samples", "level", "per_layer", "scaling", "start", "rate")


def build(results: Sequence[SeedResult]) -> dict[str, Any]:
    """Build the JSON value; `routers` are in the order of the study, with all seeds joined."""
    first = results[0]
    found: dict[str, Any] = {
        "machine": machine(),
        "seeds": [r.seed for r in results],
        "base": first.base_name,
        "experts": first.experts,
        "unseen": first.unseen,
        "size": first.size,
        "sizes": first.sizes,
        "nats": {"base": [r.base for r in results], "oracle": [r.oracle for r in results]},
    }
    found["texts"] = {name: _texts(found, nats) for name, nats in found["nats"].items()}
    for name, nats in found["nats"].items():
        found[f"{name}_bpb"] = _mean_bpb(found, nats)["mean"]
    found["routers"] = [_router(found, [r.trials[i] for r in results])
                        for i in range(len(first.trials))]  # fmt: skip
    _add_gaps(found)
    for part in first.parts:
        found[part] = [r.parts[part] for r in results]
    if "positions" in found:
        found["positions"] = [_position(each) for each in zip(*found["positions"], strict=True)]
    return found | {"claims": claims(found)}


def judged(path: Path) -> dict[str, Any]:
    """Read a finished result and judge its claims again from the figures in the file."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result | {"claims": claims(result)}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: no result whose claims can be judged: {_fault(error)}; run the routing study "
            "anew"
        ) from error


def _fault(error: Exception) -> str:
    """The fault of a file whose claims cannot be judged."""
    if isinstance(error, KeyError):
        return f"lacks {error}"
    if isinstance(error, TypeError):
        return "written by an earlier version, or by hand"
    return str(error)


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `routing.json`; returns its path."""
    return finished.write(folder / RESULT, result, PACKAGES)


def _router(found: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    nats = [t.nats for t in trials]
    bpb = _mean_bpb(found, nats)
    by_seed = [_mean_bpb(found, [each])["mean"] for each in nats]
    return {
        **{key: trials[0].variant[key] for key in SHOWN},
        "trained_at": trials[0].variant["trained_at"] or None,
        "mean_bpb": bpb["mean"],
        "ci95": bpb["ci95"],
        "ci95_seeds": finished.interval(by_seed),
        **{f"{name}_bpb": _texts(found, nats)[text]
           for name, text in (("unseen", found["unseen"]), ("mixed", MIXED), ("plain", "plain"))},
        "ess_mean": mean_of(sum(t.ess) / len(t.ess) for t in trials),
        "ess_layers": np.mean([t.ess for t in trials], axis=0).round(3).tolist(),
        "active_params": trials[0].active_params,
        "router_params": trials[0].router_params,
        "steps_per_s": mean_of(t.steps_per_s for t in trials),
        "texts": _texts(found, nats),
        "nats": nats,
        "losses": [thinned(t.losses, 4) for t in trials],
        "ess_steps": [thinned(t.ess_steps, 3) for t in trials],
    }  # fmt: skip


def _add_gaps(found: Mapping[str, Any]) -> None:
    """Compare every router with the best router of domain embeddings and with the oracle."""
    domains = [r for r in found["routers"] if r["kind"] == "domain"]
    if not domains:
        raise ConfigError("the routing study needs one router of domain embeddings at least")
    start = min(domains, key=lambda r: r["mean_bpb"])["nats"]
    about = found["sizes"], found["experts"]
    for router in found["routers"]:
        router["minus_domain"] = bits_per_byte(router["nats"], *about, start)
        router["gap_closed"] = part_of_way(router["nats"], start, found["nats"]["oracle"], *about)


def _mean_bpb(found: Mapping[str, Any], nats: Seeds) -> dict[str, Any]:
    return bits_per_byte(nats, found["sizes"], found["experts"])


def _texts(found: Mapping[str, Any], nats: Seeds) -> dict[str, float]:
    return {text: bits_per_byte(nats, found["sizes"], [text])["mean"] for text in nats[0]}


def thinned(values: Sequence[Any], digits: int) -> list[Any]:
    """Average groups of steps so that at most `POINTS` values remain."""
    if len(values) <= POINTS:
        return np.round(values, digits).tolist()  # type: ignore[no-any-return]
    parts = np.array_split(np.asarray(values), POINTS)
    return [np.round(part.mean(0), digits).tolist() for part in parts]


def _position(seeds: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    means = {key: mean_of(seed[key] for seed in seeds) for key in seeds[0]}
    return means | {edge: seeds[0][edge] for edge in ("from", "to")}
