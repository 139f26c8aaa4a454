"""What every task that trains says, whatever it trains; and how a task is read from its message."""

import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import WireError
from fedmore.experts.former_names import Renamed, today
from fedmore.strategies.settings import STRICT, one_line, parse
from fedmore.strategies.stages.base import TrainingStage

T = TypeVar("T")

TASK, STATE = "task", "state"
"""The two records of a task's message: its settings, and the arrays that it brings."""


@dataclasses.dataclass(frozen=True)
class Request(Generic[T]):
    """A task as a client has it, read once from its message.

    `task` is what is asked, and `arrays` is what it brings, by name and still encoded. What is
    decoded of them a class below this one says.
    """

    task: T
    arrays: Mapping[str, Array] = dataclasses.field(default_factory=dict)


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


def read_settings(
    content: RecordDict,
    adapter: TypeAdapter[T],
    what: str,
    renamed: Mapping[str, Renamed] = MappingProxyType({}),
) -> T:
    """The settings in a task's message; raises `WireError` when they are not `what`.

    Those that were `renamed` since tasks are sent have the name there that they had at first.
    """
    try:
        return parse(adapter, today(content.config_records.get(TASK, ConfigRecord()), renamed))
    except ValueError as error:
        raise WireError(f"not {what} of this version: {one_line(error)}") from error


def read_request(
    content: RecordDict, adapter: TypeAdapter[T], what: str, arrays: Collection[str] = ()
) -> Request[T]:
    """A task's message as a value: settings, and some of the named `arrays`; raises `WireError`."""
    return Request(read_settings(content, adapter, what), arrays_in(content, arrays, what))


def arrays_in(content: RecordDict, declared: Collection[str], what: str) -> dict[str, Array]:
    """The arrays that a task's message brings, some of those `declared`; raises `WireError`.

    A message has two records and no others. Each array is one of bytes, as an encoded one is.
    """
    found = dict(content.array_records.get(STATE, ArrayRecord()))
    unknown = sorted((set(content) - {TASK, STATE}) | (set(found) - set(declared)))
    if unknown:
        raise WireError(f"not {what} of this version: it brings {unknown[0]!r}")
    for name, array in found.items():
        if array.dtype != "uint8" or len(array.shape) != 1:
            raise WireError(f"not {what} of this version: its {name} is no array of bytes")
    return found
