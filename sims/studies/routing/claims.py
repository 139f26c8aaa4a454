"""The study's claims, each with its figures and its outcome.

A figure is judged by its whole 95 % interval, and a claim by all of its figures: `met`, `not met`,
`undecided`, or `not measured` if the study left it out. A claim about the best router is met if any
router meets it, and not met if none can.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedmore.sims.report.outcome import Outcome, all_of, any_of, at_least, at_most
from fedmore.sims.studies.routing.figures import Figure, bits_per_byte, over_seeds, quotient

Result = Mapping[str, Any]
Router = Mapping[str, Any]
Row = dict[str, Any]
GAP, COLLAPSED, PART, HARM = 0.9, 1.5, 0.1, 0.01
EXACT = 1e-6


def claims(result: Result) -> list[dict[str, Any]]:
    """`[{claim, verdict, figures: [{of, mean, ci95, goal, verdict}]}]`, from a finished result."""
    found = []
    for text, check, together in CLAIMS:
        rows = list(check(result))
        verdict = together(row["verdict"] for row in rows)
        found.append({"claim": text, "verdict": verdict, "figures": rows})
    return found


def label(router: Router) -> str:
    """Name of a row of the study."""
    parts = [router["name"], f"k = {router['k'] or 'all'}"]
    if router["samples"]:
        parts.append(f"M = {router['samples']}")
    if router["trained_at"] == "clients":
        parts.append("at clients")
    return ", ".join(parts)


def _below(of: str, figure: Figure, limit: float) -> Row:
    return _row(of, figure, f"at most {limit}", at_most(figure["ci95"], limit))


def _above(of: str, figure: Figure, limit: float) -> Row:
    return _row(of, figure, f"at least {limit}", at_least(figure["ci95"], limit))


def _row(of: str, figure: Figure, goal: str, outcome: Outcome) -> Row:
    return {"of": of, **figure, "goal": goal, "verdict": outcome}


def _learned(result: Result, kind: str) -> list[Router]:
    """Routers of a kind that the coordinator trains from zero."""
    return [
        r for r in result["routers"]
        if r["kind"] == kind and r["trained_at"] == "coordinator" and r["start"] == "zero"
    ]  # fmt: skip


def _gap(result: Result) -> Iterator[Row]:
    """Rows of the closed gap, best first, without routers of domain embeddings, its start."""
    rows = [r for r in result["routers"] if r["kind"] != "domain"]
    for router in sorted(rows, key=lambda r: r["gap_closed"]["mean"] or 0, reverse=True):
        yield _above(label(router), router["gap_closed"], GAP)


def _collapse(result: Result) -> Iterator[Row]:
    for router in _learned(result, "softmax"):
        if router["k"] == 0:
            yield _below(label(router), over_seeds(_last_ess(router)), COLLAPSED)


def _stays(result: Result) -> Iterator[Row]:
    """Exact by construction: it holds in every seed, or the claim is not met."""
    for router in _learned(result, "remix"):
        ess = _last_ess(router)
        exact = all(abs(value - router["k"]) < EXACT for value in ess)
        outcome: Outcome = "met" if exact else "not met"
        yield _row(label(router), over_seeds(ess), f"{router['k']} in every seed", outcome)


def _lower(result: Result) -> Iterator[Row]:
    """At equal k, compare ReMix with the most common M to softmax top-k, paired by document."""
    softmax = {r["k"]: r for r in _learned(result, "softmax") if r["k"]}
    for router in _learned(result, "remix"):
        if router["name"] != "ReMix" or router["samples"] != 4 or router["k"] not in softmax:
            continue
        pair = router["nats"], result["sizes"], result["experts"], softmax[router["k"]]["nats"]
        yield _below(f"ReMix minus softmax, k = {router['k']}", bits_per_byte(*pair), 0.0)


def _last_ess(router: Router) -> list[float]:
    """Each seed's mean over decisions at the last step."""
    return [sum(steps[-1]) / len(steps[-1]) for steps in router["ess_steps"]]


def _cost(result: Result) -> Iterator[Row]:
    for place in result["cost"][0] if "cost" in result else ():
        remix, softmax = ([c[place][key] for c in result["cost"]] for key in ("remix", "softmax"))
        yield _above(f"steps per second, ReMix / softmax, {place}", quotient(remix, softmax), 1.0)


def _added(result: Result) -> Iterator[Row]:
    for key in ("steps", "seconds") if "added" in result else ():
        parts, wholes = (
            [added[name] for added in result["added"]] for name in (key, f"{key}_of_retraining")
        )
        yield _below(f"{key}, adding / training anew", quotient(parts, wholes), PART)


def _withdrawn(result: Result) -> Iterator[Row]:
    """Rows of every seed and remaining text, worst first; a mean over seeds could hide one."""
    rows = []
    for seed, each in zip(result["seeds"], result.get("withdrawn", ()), strict=False):
        for name, after in each["after"].items():
            for text in after:
                rise = bits_per_byte([after], result["sizes"], [text], [each["before"]])
                rows.append(_below(f"{text} without {name}, seed {seed}", rise, HARM))
    yield from sorted(rows, key=lambda row: row["mean"], reverse=True)


Together = Callable[[Iterator[Outcome]], Outcome]
CLAIMS: Sequence[tuple[str, Callable[[Result], Iterator[Row]], Together]] = (
    ("the best router closes 90 % of the gap from domain embeddings to the oracle", _gap, any_of),
    ("a learned softmax collapses to an effective sample size near 1", _collapse, all_of),
    ("ReMix stays at k", _stays, all_of),
    ("ReMix ends lower than softmax at the same k", _lower, all_of),
    ("training ReMix is no slower than training softmax", _cost, all_of),
    ("adding an expert costs under 10 % of training anew", _added, all_of),
    ("withdrawing an expert harms no other text", _withdrawn, all_of),
)
