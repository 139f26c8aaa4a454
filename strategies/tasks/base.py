"""What every task that trains says, whatever it trains; and how the settings of a task are read."""

from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import ConfigRecord, RecordDict
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import WireError
from fedmore.strategies.settings import STRICT, parse
from fedmore.strategies.stages.base import TrainingStage

T = TypeVar("T")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Work:
    """One client's part in one round of a stage; see `strategies.stages.base.TrainingStage`.

    `round` counts from 1, `seed` is the federation's, and `updates` is how many updates of this
    client the coordinator has.
    """

    stage: str
    round: int
    rounds: int
    steps: int
    batch_size: int
    sequence_length: int
    learning_rate: float
    codec: str
    threads: int
    seed: int
    updates: int

    @property
    def tokens(self) -> int:
        """Tokens that it trains on."""
        return self.steps * self.batch_size * self.sequence_length


def work_of(stage: TrainingStage, number: int, updates: int, seed: int) -> Mapping[str, Any]:
    """The fields of `Work` in round `number` (from 1) of a stage."""
    return {
        "stage": stage.kind,
        "round": number,
        "rounds": stage.rounds,
        "steps": stage.steps,
        "batch_size": stage.batch_size,
        "sequence_length": stage.sequence_length,
        "learning_rate": stage.learning_rate,
        "codec": stage.update_codec,
        "threads": stage.threads,
        "seed": seed,
        "updates": updates,
    }


def read_settings(content: RecordDict, adapter: TypeAdapter[T], what: str) -> T:
    """The settings in a task's message; raises `WireError` when they are not `what`."""
    try:
        return parse(adapter, content.config_records.get("task", ConfigRecord()))
    except ValidationError as error:
        raise WireError(f"not {what} of this version: {error}") from error
