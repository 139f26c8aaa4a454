"""Did the run reach the project's goals? Every answer is computed from the data of this run.

Two ways to compare with the base. Paired differences (the same documents under both models) are
used where the evaluation has them: documents differ far more from each other than the models do.
Otherwise the two intervals must not overlap, which is stricter.
"""

from dataclasses import dataclass

from fedmore.sims.report.schema import Interval, Scores
from fedmore.sims.report.study import Change, Study

GAIN_KEPT = 0.80
TIMES_SMALLER = 25.0
ROUNDING = 1e-5  # relative; float32 rounds at 6e-8, and the sums run over thousands of terms
MARGIN = 0.005  # of the base's bits per byte: what still counts as "not worse" within the noise


@dataclass(frozen=True)
class Verdict:
    """One goal: what was asked, what was measured; `passed` is None where nothing was measured."""

    goal: str
    measured: str
    passed: bool | None

    @property
    def word(self) -> str:
        """The answer in words, for readers without colours."""
        return {True: "met", False: "not met", None: "not measured"}[self.passed]


def judge(study: Study) -> tuple[Verdict, ...]:
    """Every goal, in the order of the report."""
    scores = study.report.bits_per_byte
    trained = {name: s for name, s in scores.items() if s.own_expert}
    return (
        _learned(trained, study.paired),
        _kept(trained),
        _unharmed({n: s for n, s in scores.items() if n not in trained}, study.paired),
        _small(study),
        _exact(study.report.aggregation_error),
    )


def gain_kept(scores: Scores) -> float | None:
    """The part of the own expert's gain that the mixture keeps; None where there is no gain."""
    if scores.own_expert is None or scores.own_expert.mean >= scores.base.mean:
        return None
    gain = scores.base.mean - scores.own_expert.mean
    return (scores.base.mean - scores.mixture.mean) / gain


def times_smaller(study: Study) -> float | None:
    """How many times less went up than float32 would have sent; None where it was not counted."""
    traffic = study.report.traffic
    return traffic.bytes_up_if_fp32 / traffic.bytes_up if traffic.bytes_up else None


def signed(change: float) -> str:
    """A change of bits per byte, with its sign."""
    return f"{change:+.3f}".replace("-", "\N{MINUS SIGN}")


def _learned(trained: dict[str, Scores], paired: dict[str, Change]) -> Verdict:
    told, good = [], []
    for name, scores in trained.items():
        own = scores.own_expert or scores.base
        told.append(f"{name} {signed(own.mean - scores.base.mean)}")
        good.append(_below(own, scores.base, paired[name].own_expert if name in paired else None))
    how = "paired" if set(trained) <= set(paired) else "intervals apart"
    goal = f"own expert clearly below the base (95 %, {how})"
    return Verdict(goal, _bits(told), all(good) if good else None)


def _below(own: Interval, base: Interval, change: Interval | None) -> bool:
    return change.ci95[1] < 0 if change else own.ci95[1] < base.ci95[0]


def _kept(trained: dict[str, Scores]) -> Verdict:
    shares = {name: gain_kept(scores) for name, scores in trained.items()}
    told = [f"{name} {'no gain' if s is None else f'{s:.0%}'}" for name, s in shares.items()]
    passed = all(s is not None and s >= GAIN_KEPT for s in shares.values()) if shares else None
    goal = f"mixture keeps at least {GAIN_KEPT:.0%} of each gain"
    return Verdict(goal, ", ".join(told) or "nobody trained", passed)


def _unharmed(others: dict[str, Scores], paired: dict[str, Change]) -> Verdict:
    told = [f"{name} {signed(s.mixture.mean - s.base.mean)}" for name, s in others.items()]
    good = [_not_worse(s, paired.get(name)) for name, s in others.items()]
    goal = "mixture not worse than the base where nobody trained"
    return Verdict(goal, _bits(told), all(good) if good else None)


def _not_worse(scores: Scores, change: Change | None) -> bool:
    """No higher than the base; or higher within both the noise and `MARGIN`."""
    excess = scores.mixture.mean - scores.base.mean
    low = change.mixture.ci95[0] if change else scores.mixture.ci95[0] - scores.base.ci95[1]
    return excess <= 0 or (low <= 0 and excess <= MARGIN * scores.base.mean)


def _small(study: Study) -> Verdict:
    times = times_smaller(study)
    goal = f"bytes up at least {TIMES_SMALLER:.0f} times smaller than in float32"
    if times is None:
        return Verdict(goal, "no socket counted them", None)
    return Verdict(goal, f"{times:.1f} times", times >= TIMES_SMALLER)


def _exact(error: float | None) -> Verdict:
    goal = f"aggregation error at rounding level (below {ROUNDING:.0e})"
    if error is None:
        return Verdict(goal, "no aggregate", None)
    return Verdict(goal, f"{error:.1e}", error < ROUNDING)


def _bits(told: list[str]) -> str:
    return ", ".join(told) + " bits per byte" if told else "no such text"
