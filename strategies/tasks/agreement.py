"""What all kinds of tasks have in common when they are compared with an owner's agreed plan."""

from collections.abc import Sequence

from fedmore.strategies.stages.base import Stage


def no_stage(kind: str) -> str:
    """The agreed plan has no such stage."""
    return f"the agreed plan has no stage {kind!r}"


def of_rank(what: str, ranks: Sequence[int], most: int) -> list[str]:
    """What a stage keeps has no more rank than its plan says; more would only cost memory here."""
    largest = max(ranks, default=0)
    return [f"it brings {what} of rank {largest}, agreed was {most}"] if largest > most else []


def out_of_rounds(stage: Stage, number: int) -> list[str]:
    """A stage has the rounds that its plan says."""
    if 1 <= number <= stage.rounds:
        return []
    return [f"round is {number}, agreed were rounds 1 to {stage.rounds}"]
