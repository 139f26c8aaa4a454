"""What a federation is going to do: its stages, each a frozen dataclass.

`federation.toml` is read into these by `fedmore.coordinator.config`; a wrong value raises
`ValueError` here, which becomes a `ConfigError` with the dotted path there.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True)

T = TypeVar("T")

CodecName = Literal["fp32", "bf16", "sign1"]


def parse(adapter: TypeAdapter[T], table: Mapping[str, Any]) -> T:
    """Read a table strictly; raises pydantic's `ValidationError`, whose `loc` is the path.

    Through JSON, where arrays are tuples and dataclasses are tables, yet "3" is not 3.
    """
    return adapter.validate_json(json.dumps(dict(table), default=str))


def positive(**values: float) -> None:
    """Raise `ValueError`, naming value and field, unless every value is above zero."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True, config=STRICT)
class Stage:
    """One part of the plan.

    `steps` optimiser steps per client and round; windows of `sequence_length` tokens, `batch_size`
    of them a step; `timeout_s` seconds is the deadline of a round.
    """

    kind: Literal["experts", "language", "router"]
    rounds: int = 3
    steps: int = 10
    batch_size: int = 4
    sequence_length: int = 128
    learning_rate: float = 1e-3
    codec: CodecName = "sign1"
    download_codec: CodecName = "bf16"
    first_layers: int = 10
    last_layers: int = 2
    threads: int = 0
    max_rank: int = 512
    timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        """Reject values that no run could use."""
        positive(
            rounds=self.rounds,
            steps=self.steps,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            learning_rate=self.learning_rate,
            max_rank=self.max_rank,
            timeout_s=self.timeout_s,
        )
        if min(self.first_layers, self.last_layers, self.threads) < 0:
            raise ValueError("first_layers, last_layers and threads must be 0 or more")


@dataclass(frozen=True, config=STRICT)
class Plan:
    """The stages, in sequence."""

    stages: tuple[Stage, ...] = (Stage("experts"), Stage("language"), Stage("router", rounds=1))

    def __post_init__(self) -> None:
        """There must be something to do, and each kind of it once."""
        kinds = [stage.kind for stage in self.stages]
        if not kinds:
            raise ValueError("a plan needs at least one stage")
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each kind of stage once, not {', '.join(kinds)}")
