"""What the coordinator does for one kind of stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.evaluate import Scorer
from fedmore.coordinator.run.recorder import Recorder
from fedmore.coordinator.store.records import RoundRow
from fedmore.strategies.events import Event
from fedmore.strategies.rounds.train_only import RoundStrategy
from fedmore.strategies.stages.base import Stage
from fedmore.strategies.stages.kinds import kind_of, load

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True)
class StageContext(Generic[S]):
    """One stage of a federation's plan, as its runner is given it.

    Args:
        federation: the folder, the configuration, the registry and the store.
        index: the stage's place in the plan, from 0.
        stage: its settings.
        done: the rows of its finished rounds.
        recorder: writes each round down.
        scorer: the coordinator's scorer; it loads the base when first called.
        observer: hears what happens.
        start: has a strategy do that number of rounds.

    """

    federation: Federation
    index: int
    stage: S
    done: Sequence[RoundRow]
    recorder: Recorder
    scorer: Callable[[], Scorer]
    observer: Callable[[Event], None]
    start: Callable[[RoundStrategy, int], None]


def no_advice(_: StageContext[Any]) -> list[str]:
    """There is nothing to tell an operator before the stage."""
    return []


@dataclass(frozen=True)
class StageRunner:
    """How one kind of stage is carried out.

    Args:
        carry_out: do the rounds that are left: begin the first with `recorder.begin`, `start` a
            strategy, and give what each round leaves to `recorder.finish`.
        goes_on_without: whether the plan can end with a mixture although the stage has not
            finished.
        advice: what to tell an operator before the stage.

    """

    carry_out: Callable[[StageContext[Any]], None]
    goes_on_without: Callable[[StageContext[Any]], bool]
    advice: Callable[[StageContext[Any]], list[str]] = no_advice


def runner_of(stage: Stage) -> StageRunner:
    """The runner of a stage's kind."""
    return load(kind_of(stage).runner, StageRunner)
