"""The step of a round: how the answers of owners move an expert (`strategies.state`).

With an outer momentum mu and rate eta (Nesterov, as in DiLoCo, arXiv 2311.08105) every owner also
has a momentum, so that the step stays linear in the answers and a withdrawal stays exact::

    M_k <- mu M_k + w_k s_k (B_k' A_k' - B_k A_k)
    W_k <- W_k + eta (w_k s_k (B_k' A_k' - B_k A_k) + mu M_k)

Who did not answer in a round in which others did is moved by its momentum alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedmore.kernels.determinism import one_thread
from fedmore.strategies.expert_stage.aggregation import MEAN, Rule
from fedmore.strategies.expert_stage.changes import (
    COMMON,
    Change,
    Terms,
    folded,
    product,
    summed,
    times,
)
from fedmore.strategies.expert_stage.state import Component, ExpertState, aggregated
from fedmore.strategies.stages.expert import FOLD, FactorStage


@dataclass(frozen=True)
class Outer:
    """How a round's changes move the contributions.

    `rate` and `momentum` are the server's; `held` says that both ends go on with an owner's
    factors; `tolerance` is the relative Frobenius error of one fold.
    """

    rate: float = 1.0
    momentum: float = 0.0
    held: bool = True
    tolerance: float = FOLD


PLAIN = Outer()


def outer_of(stage: FactorStage) -> Outer:
    """How a stage's rounds move the contributions."""
    return Outer(
        stage.server_learning_rate,
        stage.server_momentum,
        stage.round_start == "own",
        stage.fold_tolerance,
    )


def advance(
    state: ExpertState,
    changes: Sequence[Change],
    max_rank: int,
    rule: Rule = MEAN,
    outer: Outer = PLAIN,
    energy: float = 1.0,
) -> tuple[ExpertState, float]:
    """The state after a round, and the relative Frobenius error of its aggregate.

    The error is against the exact sum of the contributions: rounding, and what a `max_rank` below
    their rank or an `energy` below 1 cuts off (`aggregated`). What is cut off is
    not lost to the next round.
    """
    ordered = sorted(changes, key=lambda change: change.client)
    with one_thread():
        shares = rule.weights(ordered)
        moved = _moved(state, ordered, shares, outer, rule.merged(ordered))
        if rule.selects:
            moved = _with_choice(moved, ordered, shares)
        return aggregated(moved, max_rank, energy)


def _moved(
    state: ExpertState,
    changes: Sequence[Change],
    shares: Sequence[float],
    outer: Outer,
    merged: Terms,
) -> ExpertState:
    """The state with all contributions, components and momenta of a round moved."""
    gain, answered = outer.rate * (1 + outer.momentum), {change.client for change in changes}
    components, pushes = dict(state.components), {COMMON: merged}
    steps = {COMMON: times(merged, gain)}
    for change, share in zip(changes, shares, strict=True):
        name, weight = change.client, share * change.fresh
        old = components.get(name, Component({}))
        new = Component(change.after, old.updates + 1, gain * weight, change.scale)
        pushes[name] = change.terms(weight)
        if outer.held:
            components[name] = new
            steps[name] = product(change.before, old.weight - new.weight, change.scale)
        else:
            components[name] = replace(new, factors={}, weight=0.0)
            steps[name] = change.terms(new.weight)
    for name, each in state.momentum.items():
        steps[name] = summed(steps.get(name, {}), product(each, outer.rate * outer.momentum**2))
    settled, lost = folded(state.settled, steps, 1.0, outer.tolerance)
    momentum, forgotten = folded(state.momentum, pushes, outer.momentum, outer.tolerance)
    return replace(
        state, components=components, settled=settled, momentum=momentum,
        lost=state.lost + lost + forgotten,
        starts={name: each for name, each in state.starts.items() if name not in answered},
    )  # fmt: skip


def _with_choice(
    state: ExpertState, changes: Sequence[Change], shares: Sequence[float]
) -> ExpertState:
    """The state with the owners that the rule chose, and in how many rounds running."""
    pairs = zip(changes, shares, strict=True)
    chosen = tuple(change.client for change, share in pairs if share)
    again = chosen == state.chosen and len(chosen) < len(changes)
    return replace(state, chosen=chosen, streak=state.streak + 1 if again else 1)
