"""The study `participation`: owners who join, stay away, are late or withdraw, beside a control."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmore.sims.rounds import report
from fedmore.sims.rounds.control import Control
from fedmore.sims.rounds.federation import Federation, Owner
from fedmore.sims.rounds.world import World
from fedmore.strategies.plan import Stage

Rounds = Sequence[tuple[Sequence[Owner], Sequence[str]]]  # who is present; whose answer is late


@dataclass(frozen=True)
class Case:
    """A schedule; `before` of its rounds come before what happens, then `withdraws` (or nobody)."""

    name: str
    rounds: Rounds
    before: int
    texts: tuple[str, ...]
    withdraws: str = ""


@dataclass(frozen=True)
class Row:
    """One case of one seed, in bits per byte; `control` is dense FedAvg over the same answers."""

    case: str
    model: str
    seed: int
    base_bpb: float
    before_bpb: float
    product_bpb: float
    control_bpb: float


def cases(texts: Sequence[str], scale: int = 1) -> list[Case]:
    """The cases over two texts that are unlike; `scale` multiplies the rounds."""
    like, other = texts[0], texts[-1]
    pair = [Owner(name, 8, like, part, 2) for part, name in enumerate("ab")]
    large = Owner("c", 8, other, size=9.0)
    eight = [Owner(f"o{k}", 8, like, k, 8) for k in range(8)]
    unlike = [Owner("a", 8, like), Owner("b", 8, other)]
    mixed = [Owner("a", 4, like), Owner("b", 16, other)]
    both = (like, other)
    some = 4 * scale
    turns: Rounds = [(eight[2 * k % 8 : 2 * k % 8 + 2], ()) for k in range(2 * some)]
    return [
        Case("large owner joins", [*[(pair, ())] * some, ([*pair, large], ())], some, both),
        Case("two of eight in turn", turns, 2 * some - 1, (like,)),
        Case("one of two late", [*[(pair, ())] * some, (pair, "b"), (pair, ())], some, (like,)),
        Case("unlike, one late", [*[(unlike, ())] * some, (unlike, "b"), (unlike, ())], some, both),
        Case("like, one withdraws", [(pair, ())] * 2 * some, 2 * some, (like,), "b"),
        Case("unlike, one withdraws", [(unlike, ())] * 2 * some, 2 * some, (like,), "b"),
        Case("ranks 4 and 16, one withdraws", [(mixed, ())] * 2 * some, 2 * some, (like,), "b"),
    ]


def run_case(world: World, case: Case, seed: int, stage: Stage) -> Row:
    """One case by the product, and by the control over the same answers."""
    federation, control = Federation(world, stage, seed), Control()
    base = before = world.score(None, case.texts)
    for number, (present, late) in enumerate(case.rounds, 1):
        control.round(federation.round(present, late))
        if number == case.before:
            before = federation.score(case.texts)
    if case.withdraws:
        federation.withdraw(case.withdraws)
        control.withdraw(case.withdraws)
    found = federation.score(case.texts)
    against = world.score(control.change(), case.texts)
    return Row(case.name, world.name, seed, base, before, found, against)


def run(
    *,
    out: Path,
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    engine: str = "local",  # noqa: ARG001 - all in this process
    settings: Sequence[str] = (),
    results_in: Path | None = None,
    console: Console,
) -> Path:
    """Run what is not there yet and write `participation.json`; returns its path."""
    rows = []
    for world, seed in report.worlds(out, seeds, quick=quick):
        stage = report.stage(settings, rounds=12, steps=3 if quick else 6, learning_rate=5e-3)
        for case in cases(list(world.texts)[:2], 1 if quick else 2):

            def make(world: World = world, case: Case = case, seed: int = seed) -> Any:
                return asdict(run_case(world, case, seed, stage))  # noqa: B023 - the same for all

            rows.append(report.kept(out, f"{world.name}-{seed}-{case.name}", make, console))
    worst = max(abs(row["product_bpb"] / row["control_bpb"] - 1) for row in rows)
    console.print(f"farthest from its control: {100 * worst:.4f} %")
    return report.write(results_in or out, "participation", rows, "cases")
