"""The gate: a new version of an expert is promoted, or held until a later one is good enough.

There are two yardsticks. With a text in `gate.texts` a version may be worse than the promoted one
by `gate.margin` at most, on the mean over the same documents. After a withdrawal that made an
expert worse, a version must come within `withdrawal.margin` of what it scored before, and must not
be worse than the base. Without a text a version is promoted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import (
    entry_of,
    forget_yardstick,
    promoted,
    set_yardstick,
)
from fedmore.coordinator.mixture.assemble import load_factors
from fedmore.coordinator.mixture.evaluate import GATE, Scorer, text_of
from fedmore.coordinator.mixture.versions import HELD_BACK
from fedmore.coordinator.mixture.withdrawal_scoring import (
    RECOVERS,
    Outcome,
    is_good,
    not_worse,
    scorer_of,
    settle,
)
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.scoring.bits_per_byte import Score, difference, mean_bits_per_byte
from fedmore.strategies.expert_stage.progress import Judge, Told
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.expert import FactorStage

log = logging.getLogger(__name__)
MakeScorer = Callable[[], Scorer]


def note(federation: Federation, stage: Stage, index: int, outcome: Outcome) -> None:
    """Record what becomes of an expert after a withdrawal; a second call changes nothing."""
    name, told, registry = outcome.state.name, outcome.told, federation.registry
    if HELD_BACK in told:
        set_yardstick(registry, name, told["scores"], told[HELD_BACK])
    else:
        forget_yardstick(registry, name)
    if RECOVERS in told:
        recovery_rounds.add(registry, stage, index, name, told[RECOVERS])


def judge_of(federation: Federation, index: int, stage: FactorStage, scorer: MakeScorer) -> Judge:
    """Make the function by which a stage judges an expert after a withdrawal."""

    def judge(
        before: ExpertState, left: ExpertState, error: float
    ) -> tuple[ExpertState, float, Told]:
        wanted = recovery_rounds.asked_for(federation.config, federation.registry)
        outcome = settle(wanted, before, left, error, stage, scorer)
        note(federation, stage, index, outcome)
        log.warning("%s after a withdrawal: %s", left.name, outcome.told.get("withdrawal", "gone"))
        return outcome.state, outcome.error, dict(outcome.told)

    return judge


def verdict(
    federation: Federation,
    name: str,
    factors: Factors,
    said: Mapping[str, Any] | None = None,
    scorer: MakeScorer | None = None,
) -> dict[str, Any]:
    """What the metrics of a new version say of how it was judged; `HELD_BACK` if it is to be held.

    `said` are its metrics so far. One that a withdrawal of the same round has judged is not
    compared with the promoted version, which holds the withdrawn part.
    """
    registry, config, said = federation.registry, federation.config, said or {}
    if yardstick := entry_of(registry, name).get("yardstick"):
        found = _after_withdrawal(config, name, factors, yardstick, scorer)
    elif name not in config.gate.texts or "withdrawal" in said:
        return {}
    else:
        found = _beside_promoted(federation, name, factors, scorer)
    if found:
        log.log(
            logging.WARNING if HELD_BACK in found else logging.INFO, "%s: %s", name, _line(found)
        )
    return found


def _line(found: Mapping[str, Any]) -> str:
    return str(found.get(HELD_BACK) or found.get("withdrawal") or found.get("gate"))


def _after_withdrawal(
    config: FederationConfig,
    name: str,
    factors: Factors,
    yardstick: Mapping[str, Any],
    scorer: MakeScorer | None,
) -> dict[str, Any]:
    scores = {key: each for key, each in yardstick.items() if key != "why"}
    text = text_of(config, name)
    if not text:
        return {"scores": scores, HELD_BACK: yardstick["why"]}
    now = scorer_of(config, text, scorer)(factors)
    found: dict[str, Any] = {"scores": {**scores, "now": now}}
    if is_good(config.withdrawal, now, scores):
        return found | {"withdrawal": f"held back no more: {now:.3f} bits per byte"}
    return found | {HELD_BACK: yardstick["why"]}


def _beside_promoted(
    federation: Federation, name: str, factors: Factors, scorer: MakeScorer | None
) -> dict[str, Any]:
    config, used = federation.config, promoted(federation.registry, name)
    if used is None:
        return {}
    score = document_scores(config, GATE + name, scorer)
    before, now = score(load_factors(federation.store, used)), score(factors)
    was, mean, paired = mean_bits_per_byte(before), mean_bits_per_byte(now), difference(now, before)
    margin, ci95 = config.gate.margin, paired["ci95"]
    interval = f" [{ci95[0]:+.3f}, {ci95[1]:+.3f}]" if ci95 else ""
    line = (
        f"{mean:.3f} bits per byte, {paired['mean']:+.3f}{interval} to the promoted version's "
        f"{was:.3f}, of which {margin:.1%} may be lost"
    )
    scores = {"before": was, "now": mean, "paired": paired}
    held = {} if not_worse(mean, was, margin) else {HELD_BACK: line}
    return {"scores": scores, "gate": line, **held}


def document_scores(
    config: FederationConfig, text: str, make: MakeScorer | None = None
) -> Callable[[Factors], Sequence[Score]]:
    """Make a function from a change to the scores of each document of a text."""
    scorer = make() if make else Scorer(config)
    return lambda change: scorer.score(with_change(scorer.base.model, change), text)
