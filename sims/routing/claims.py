"""What the study set out to check, each with its figures and whether it holds.

A claim is met by the means over seeds, not by the best of them; `figures` has all seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
GAP, COLLAPSED, PART, HARM = 0.9, 1.5, 0.1, 0.01


def claims(result: Result) -> list[dict[str, Any]]:
    """`[{claim, figures, met}]`."""
    return [
        {"claim": claim, "figures": figures, "met": met}
        for claim, (figures, met) in ((text, check(result)) for text, check in CLAIMS)
    ]


Checked = tuple[dict[str, Any], bool]


def _learned(result: Result, kind: str) -> list[dict[str, Any]]:
    """Those that the coordinator trains from nothing."""
    return [
        r for r in result["routers"]
        if r["kind"] == kind and r["trained_at"] == "coordinator" and r["start"] == "zero"
    ]  # fmt: skip


def _gap(result: Result) -> Checked:
    best = max(result["routers"], key=lambda r: r["gap_closed"] or float("-inf"))
    about = {key: best[key] for key in ("name", "k", "samples", "gap_closed", "gap_closed_seeds")}
    return about, (best["gap_closed"] or 0) >= GAP


def _collapse(result: Result) -> Checked:
    last = {_label(r): _last_ess(r) for r in _learned(result, "softmax") if r["k"] == 0}
    return {"last_ess": last}, all(value <= COLLAPSED for value in last.values())


def _stays(result: Result) -> Checked:
    last = {_label(r): (r["k"], _last_ess(r)) for r in _learned(result, "remix")}
    return {"k_and_last_ess": last}, all(abs(k - ess) < 1e-6 for k, ess in last.values())


def _lower(result: Result) -> Checked:
    """At the same k: ReMix of the most common M against softmax top-k."""
    softmax = {r["k"]: r["mean_bpb"] for r in _learned(result, "softmax") if r["k"]}
    remix = {r["k"]: r["mean_bpb"] for r in _learned(result, "remix")
             if r["samples"] == 4 and r["name"] == "ReMix"}  # fmt: skip
    both = {k: {"remix": remix[k], "softmax": softmax[k]} for k in sorted(remix)}
    return {"mean_bpb_by_k": both}, all(row["remix"] < row["softmax"] for row in both.values())


def _last_ess(router: Mapping[str, Any]) -> float:
    """Mean over seeds and decisions at the last step."""
    return _mean([_mean(steps[-1]) for steps in router["ess_steps"]])


def _label(router: Mapping[str, Any]) -> str:
    samples = f", M = {router['samples']}" if router["samples"] else ""
    return f"{router['name']}, k = {router['k'] or 'all'}{samples}"


def _cost(result: Result) -> Checked:
    ratios = {place: [c[place]["ratio"] for c in result["cost"]] for place in result["cost"][0]}
    return {"steps_per_s_ratio": ratios}, all(_mean(each) >= 1 for each in ratios.values())


def _added(result: Result) -> Checked:
    steps = [a["steps"] / a["steps_of_retraining"] for a in result["added"]]
    seconds = [a["seconds"] / a["seconds_of_retraining"] for a in result["added"]]
    more = [a["bpb"] - a["bpb_of_retraining"] for a in result["added"]]
    figures = {"steps": steps, "seconds": seconds, "bpb_above_retraining": more}
    return figures, _mean(steps) < PART and _mean(seconds) < PART


def _withdrawn(result: Result) -> Checked:
    """Every text that is left: not above what it had before the withdrawal by more than noise."""
    worst = [max(w["harm"].values()) for w in result["withdrawn"]]
    return {"largest_rise_of_a_text": worst}, max(worst) <= HARM


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


CLAIMS: tuple[tuple[str, Callable[[Result], Checked]], ...] = (
    ("the best router closes 90 % of the gap from domain embeddings to the oracle", _gap),
    ("a learned softmax collapses to an effective sample size near 1", _collapse),
    ("ReMix stays at k", _stays),
    ("ReMix ends lower than softmax at the same k", _lower),
    ("training ReMix is no slower than training softmax", _cost),
    ("adding an expert costs under 10 % of training anew", _added),
    ("withdrawing an expert harms no other text", _withdrawn),
)
