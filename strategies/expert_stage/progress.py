"""The progress of a stage when its strategy begins, or goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmore.strategies.expert_stage.state import ExpertState

Told = dict[str, Any]
"""What a round's metrics say of an expert that a withdrawal has changed."""

Judge = Callable[[ExpertState, ExpertState, float], tuple[ExpertState, float, Told]]
"""From an expert before and after a withdrawal, with the error of its aggregate, to the state to go
on with, its error, and what is told."""

Asks = Callable[[int, str], bool]
"""Whether a round asks the owners of an expert."""


def kept_as_left(
    _: ExpertState, left: ExpertState, error: float
) -> tuple[ExpertState, float, Told]:
    """Keep the remaining parts after a withdrawal unchanged."""
    return left, error, {}


def everybody(_number: int, _expert: str) -> bool:
    """Every round asks the owners of every expert."""
    return True


@dataclass(frozen=True)
class Progress:
    """The progress of a stage: `done` rounds, what they left, and the clients still to answer.

    `late` are the rows of `fedmore.strategies.expert_stage.pending` in the last round's metrics,
    and `sizes` what each client said of its text when it was first asked.
    """

    done: int = 0
    states: Mapping[str, ExpertState] = field(default_factory=dict)
    late: Sequence[Mapping[str, Any]] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
