"""Scores an expert after a withdrawal, and decides what happens if it became worse.

An owner's part is removed exactly. The quality of the rest is not guaranteed, since it was trained
together with the removed part. So the new version is scored on the coordinator's held-out text of
that name. It counts as worse if it lost more than `withdrawal.margin`, or scores below the base.
Then `withdrawal.when_worse` decides:

- the remaining contributions are scaled by one factor, fitted to that text
- the expert is held back
- the expert is held back until its owners have trained for more rounds
- the expert is kept as it is

An expert without such a text is kept, with recovery rounds if that is the choice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.config.sections import WithdrawalSection
from fedmore.coordinator.mixture.evaluate import Scorer, text_of
from fedmore.coordinator.mixture.versions import HELD_BACK
from fedmore.experts.factors import Factors, times
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.scoring.bits_per_byte import mean_bits_per_byte
from fedmore.strategies.expert_stage.state import ExpertState, scaled
from fedmore.strategies.stages.expert import FactorStage

Score = Callable[[Factors | None], float]
"""A function from a change to the bits per byte of the base with it; None is the base alone."""

STEPS = 6
"""Golden-section steps for the factor, which determine it to within 0.06."""
GOLDEN = (5**0.5 - 1) / 2

RECOVERS = "recovery_rounds"
"""Key of an expert's metrics: the number of recovery rounds for its remaining owners."""


@dataclass(frozen=True)
class Outcome:
    """The state to continue with, its aggregation error, and metrics.

    `scores` are bits per byte.
    """

    state: ExpertState
    error: float
    told: Mapping[str, Any]


def settle(
    config: FederationConfig,
    before: ExpertState,
    after: ExpertState,
    error: float,
    stage: FactorStage,
    scorer: Callable[[], Scorer] | None = None,
) -> Outcome:
    """Score the new version if there is text for it, and apply the configured choice.

    Args:
        config: the federation's configuration.
        before: the expert's state before the withdrawal.
        after: its state without the owner's part.
        error: relative aggregation error of `after`.
        stage: the expert's stage, which says how much of a new version is kept.
        scorer: makes the scorer, such as that of a running coordinator; by default a new one.

    """
    section = config.withdrawal
    if not after.owners:
        return Outcome(after, error, {})
    text = text_of(config, after.name)
    if not text:
        told = {"withdrawal": f"not scored: evaluation.texts names no text for {after.name}"}
        return Outcome(after, error, {**told, **_recovery(section)})
    score = scorer_of(config, text, scorer)
    return judged(section, score, before, after, error, stage)


def scorer_of(
    config: FederationConfig, text: str, make: Callable[[], Scorer] | None = None
) -> Score:
    """Make a function that scores on the held-out text of a name; `make` may reuse a base."""
    scorer = make() if make else Scorer(config)

    def score(change: Factors | None) -> float:
        if change is None:
            return mean_bits_per_byte(scorer.of_base(text))
        return mean_bits_per_byte(scorer.score(with_change(scorer.base.model, change), text))

    return score


def judged(
    section: WithdrawalSection,
    score: Score,
    before: ExpertState,
    after: ExpertState,
    error: float,
    stage: FactorStage,
) -> Outcome:
    """Score the expert before and after, and apply `withdrawal.when_worse` if it became worse."""
    was, left, base = (score(each) for each in (before.aggregate, after.aggregate, None))
    scores = {"before": was, "after": left, "base": base}
    if is_good(section, left, scores):
        return Outcome(after, error, {"scores": scores, "withdrawal": "kept"})
    worse = f"{left:.3f} bits per byte after {was:.3f} before (base {base:.3f})"
    if section.when_worse == "keep":
        return Outcome(after, error, {"scores": scores, "withdrawal": f"kept though {worse}"})
    if section.when_worse == "scale":
        factor = fitted(score, after.aggregate)
        made, error = scaled(after, factor, stage.max_rank, stage.aggregate_energy)
        best = score(made.aggregate)
        if best < base:
            told = f"scaled by {factor:.2f} to {best:.3f}: {worse}"
            return Outcome(made, error, {"scores": {**scores, "scaled": best}, "withdrawal": told})
    held = {"scores": scores, "withdrawal": worse, HELD_BACK: worse}
    return Outcome(after, error, {**held, **_recovery(section)})


def is_good(section: WithdrawalSection, score: float, scores: Mapping[str, float]) -> bool:
    """Whether a score is within the margin of that before, and not above the base's."""
    return not_worse(score, scores["before"], section.margin) and score <= scores["base"]


def not_worse(score: float, before: float, margin: float) -> bool:
    """Whether a score in bits per byte is within the margin, a part of the one before."""
    return score <= before * (1 + margin)


def _recovery(section: WithdrawalSection) -> dict[str, int]:
    recovers = section.when_worse == "recover"
    return {RECOVERS: section.recovery_rounds} if recovers else {}


def fitted(score: Score, aggregate: Factors) -> float:
    """Find the factor from 0 to 1 that gives the best score, by golden-section search."""

    def at(factor: float) -> float:
        return score(times(aggregate, factor))

    low, high = 0.0, 1.0
    left, right = high - GOLDEN, low + GOLDEN
    at_left, at_right = at(left), at(right)
    for _ in range(STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = at(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = at(right)
    return left if at_left < at_right else right
