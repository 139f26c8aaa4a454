"""Judges whether a run met the project's goals, from the data of this run alone.

A goal about bits per byte is judged by a 95 % interval over documents: met or missed if the whole
interval says so, undecided otherwise. If the evaluation has paired differences (the same documents
under both models), they are used, because documents differ far more than the models do. Otherwise
the two intervals must not overlap, which is stricter.
"""

from dataclasses import dataclass

from fedmore.sims.report.outcome import Outcome, all_of, at_least, at_most
from fedmore.sims.report.schema import Interval, Scores
from fedmore.sims.report.study import Change, Study

GAIN_KEPT = 0.80
TIMES_SMALLER = 25.0
ROUNDING = 1e-5  # relative; float32 rounds at 6e-8, and the sums run over thousands of terms
MARGIN = 0.005  # relative to the base's bits per byte; up to this counts as "not worse"

Range = tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """One goal, the measured value, and the outcome."""

    goal: str
    measured: str
    word: Outcome


def judge(study: Study) -> tuple[Verdict, ...]:
    """Judge every goal, in the order of the report."""
    scores, paired = study.report.bits_per_byte, study.paired
    trained = {name: s for name, s in scores.items() if s.own_expert}
    return (
        _learned(trained, paired),
        _kept(trained, paired),
        _unharmed({n: s for n, s in scores.items() if n not in trained}, paired),
        _small(study),
        _exact(study.report.aggregation_error),
    )


def gain_kept(scores: Scores) -> float | None:
    """The fraction of the own expert's gain that the mixture keeps; None without a gain."""
    if scores.own_expert is None or scores.own_expert.mean >= scores.base.mean:
        return None
    gain = scores.base.mean - scores.own_expert.mean
    return (scores.base.mean - scores.mixture.mean) / gain


def times_smaller(study: Study) -> float | None:
    """Ratio of float32 bytes to the bytes sent up; None if they were not counted."""
    traffic = study.report.traffic
    return traffic.bytes_up_if_fp32 / traffic.bytes_up if traffic.bytes_up else None


def signed(change: float) -> str:
    """Format a change of bits per byte with its sign."""
    return f"{change:+.3f}".replace("-", "\N{MINUS SIGN}")


def _apart(value: Interval, base: Interval) -> Range | None:
    """The widest difference that two intervals allow."""
    if value.ci95 is None or base.ci95 is None:
        return None
    return value.ci95[0] - base.ci95[1], value.ci95[1] - base.ci95[0]


def _learned(trained: dict[str, Scores], paired: dict[str, Change]) -> Verdict:
    told, words = [], []
    for name, scores in trained.items():
        own = scores.own_expert or scores.base
        change = paired[name].own_expert if name in paired else None
        told.append(f"{name} {signed(own.mean - scores.base.mean)}")
        words.append(at_most(change.ci95 if change else _apart(own, scores.base), 0.0))
    how = "paired" if set(trained) <= set(paired) else "intervals apart"
    goal = f"own expert clearly below the base (95 %, {how})"
    return Verdict(goal, _bits(told), all_of(words))


def _kept(trained: dict[str, Scores], paired: dict[str, Change]) -> Verdict:
    told, words = [], []
    for name, scores in trained.items():
        share, change = gain_kept(scores), paired.get(name)
        found = change.gain_kept.ci95 if change and change.gain_kept else None
        told.append(f"{name} {_share(share, found)}")
        words.append("not met" if share is None else at_least(found, GAIN_KEPT))
    goal = f"mixture keeps at least {GAIN_KEPT:.0%} of each gain (95 %)"
    return Verdict(goal, ", ".join(told) or "nobody trained", all_of(words))


def _share(share: float | None, found: Range | None) -> str:
    if share is None:
        return "no gain"
    return f"{share:.0%}" + (f" [{found[0]:.0%}, {found[1]:.0%}]" if found else "")


def _unharmed(others: dict[str, Scores], paired: dict[str, Change]) -> Verdict:
    told, words = [], []
    for name, scores in others.items():
        change = paired[name].mixture.ci95 if name in paired else None
        found = change or _apart(scores.mixture, scores.base)
        told.append(f"{name} {signed(scores.mixture.mean - scores.base.mean)}")
        words.append(at_most(found, MARGIN * scores.base.mean))
    goal = f"mixture at most {MARGIN:.1%} worse than the base where nobody trained (95 %)"
    return Verdict(goal, _bits(told), all_of(words))


def _small(study: Study) -> Verdict:
    times = times_smaller(study)
    goal = f"bytes up at least {TIMES_SMALLER:.0f} times smaller than in float32"
    if times is None:
        return Verdict(goal, "no socket counted them", "not measured")
    if study.report.traffic.counted == "payload":
        return Verdict(goal, f"{times:.1f} times in payload; no socket counted", "not measured")
    return Verdict(goal, f"{times:.1f} times", "met" if times >= TIMES_SMALLER else "not met")


def _exact(error: float | None) -> Verdict:
    goal = f"aggregation error at rounding level (below {ROUNDING:.0e})"
    if error is None:
        return Verdict(goal, "no aggregate", "not measured")
    return Verdict(goal, f"{error:.1e}", "met" if error < ROUNDING else "not met")


def _bits(told: list[str]) -> str:
    return ", ".join(told) + " bits per byte" if told else "no such text"
