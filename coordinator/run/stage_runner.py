"""What the coordinator does for one kind of stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fedmore.coordinator.store.records import RoundRow
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.kinds import kind_of, load

if TYPE_CHECKING:
    from fedmore.coordinator.run.stages import PlanRun


def no_advice(_run: "PlanRun", _stage: Any) -> list[str]:
    """There is nothing to tell an operator before the stage."""
    return []


@dataclass(frozen=True)
class StageRunner:
    """How one kind of stage is carried out.

    Args:
        carry_out: do the rounds that are left. It is given the run, the grid, the stage's index,
            the stage, and the rows of its finished rounds. `PlanRun.start` starts a strategy, and
            a `Recorder` writes each round down.
        goes_on_without: whether the plan can end with a mixture although the stage has not
            finished.
        advice: what to tell an operator before the stage.

    """

    carry_out: Callable[["PlanRun", Grid, int, Any, Sequence[RoundRow]], None]
    goes_on_without: Callable[["PlanRun", int, Any], bool]
    advice: Callable[["PlanRun", Any], list[str]] = no_advice


def runner_of(stage: Stage) -> StageRunner:
    """The runner of a stage's kind."""
    return load(kind_of(stage).runner, StageRunner)
