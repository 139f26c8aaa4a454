"""The study `participation`: owners who join, stay away, are late or withdraw, beside a control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmore.sims.report.outcome import at_most
from fedmore.sims.studies.rounds.control import Control
from fedmore.sims.studies.rounds.federation import Federation, Owner
from fedmore.sims.studies.rounds.study import Row, Study
from fedmore.sims.studies.rounds.world import World
from fedmore.strategies.stages.expert import ExpertStage

Rounds = Sequence[tuple[Sequence[Owner], Sequence[str]]]  # who is present; whose answer is late

GOAL = 0.002
"""How far from its control a row may be, as a part of it."""

HEAVY = ("large owner joins", "unlike, one late", "unlike, one withdraws")
"""The cases that are run on SmolLM2, in shorter schedules."""


@dataclass(frozen=True)
class Schedule:
    """`before` of the rounds come before what happens; then `withdraws` (or nobody) withdraws."""

    name: str
    rounds: Rounds
    before: int
    texts: tuple[str, ...]
    withdraws: str = ""


def schedules(texts: Sequence[str], some: int) -> list[Schedule]:
    """The cases over two texts that are unlike, each after `some` rounds or twice as many."""
    like, other = texts[0], texts[1]
    pair = [Owner(name, 8, like, part, 2) for part, name in enumerate("ab")]
    large = Owner("c", 8, other, size=9.0)
    eight = [Owner(f"o{k}", 8, like, k, 8) for k in range(8)]
    unlike = [Owner("a", 8, like), Owner("b", 8, other)]
    mixed = [Owner("a", 4, like), Owner("b", 16, other)]
    both = (like, other)
    turns: Rounds = [(eight[2 * k % 8 : 2 * k % 8 + 2], ()) for k in range(2 * some)]
    late: Rounds = [(unlike, ())] * some
    return [
        Schedule("large owner joins", [*[(pair, ())] * some, ([*pair, large], ())], some, both),
        Schedule("two of eight in turn", turns, 2 * some - 1, (like,)),
        Schedule("one of two late", [*[(pair, ())] * some, (pair, "b"), (pair, ())], some, (like,)),
        Schedule("unlike, one late", [*late, (unlike, "b"), (unlike, ())], some, both),
        Schedule("like, one withdraws", [(pair, ())] * 2 * some, 2 * some, (like,), "b"),
        Schedule("unlike, one withdraws", [(unlike, ())] * 2 * some, 2 * some, (like,), "b"),
        Schedule("ranks 4 and 16, one withdraws", [(mixed, ())] * 2 * some, 2 * some, (like,), "b"),
    ]


def cases(world: World, _seed: int, quick: bool) -> list[Schedule]:
    """All cases on the tiny base, after eight rounds; on SmolLM2 three of them, after two."""
    if world.name == "tiny":
        return schedules(list(world.texts), 4 if quick else 8)
    return [each for each in schedules(list(world.texts), 2) if each.name in HEAVY]


def run_case(world: World, case: Schedule, seed: int, stage: ExpertStage) -> list[Row]:
    """One case by the product, and by the control: dense FedAvg over the same answers."""
    federation, control = Federation(world, stage, seed), Control()
    base = before = world.base_score(case.texts)
    for number, (present, late) in enumerate(case.rounds, 1):
        control.round(federation.round(present, late))
        if number == case.before:
            before = federation.score(case.texts)
    if case.withdraws:
        federation.withdraw(case.withdraws)
        control.withdraw(case.withdraws)
    return [{
        "case": case.name, "model": world.name, "seed": seed,
        "base_bpb": base, "before_bpb": before, "product_bpb": federation.score(case.texts),
        "control_bpb": world.score(control.change(), case.texts),
    }]  # fmt: skip


def finished(rows: Sequence[Row]) -> tuple[Sequence[Row], Mapping[str, Any]]:
    """The rows, and the farthest that one is from its control."""
    farthest = max(abs(row["product_bpb"] / row["control_bpb"] - 1) for row in rows)
    outcome = at_most((farthest, farthest), GOAL)
    goal = {"mean": farthest, "goal": f"at most {GOAL}", "outcome": outcome}
    return rows, {"farthest from its control": goal}


SETTINGS = {"rounds": 16, "steps": 6, "learning_rate": 5e-3}
STUDY = Study("participation", "cases", SETTINGS, cases, run_case, finished)
