"""What happens in a federation, as data: for the console, the registry and the tracker.

The transport and the local engine produce these; nothing here knows how a message travels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message


@dataclass(frozen=True)
class Report:
    """What a client's training says of itself after a step.

    `step` of `steps`; `loss` in nats per token; `tokens` so far in this task.
    """

    step: int
    steps: int
    loss: float
    tokens_per_s: float
    tokens: int


@dataclass(frozen=True)
class Joined:
    """A client is connected; `kind` is "expert" or "adapter", `target` its domain or language.

    `ranks` is the pattern of its ranks, empty if all are `rank`.
    """

    name: str
    kind: str
    target: str
    rank: int
    ranks: str = ""


@dataclass(frozen=True)
class Left:
    """A client has gone, or was given up."""

    name: str
    reason: str


@dataclass(frozen=True)
class Withdrawn:
    """A client takes its work back; it is left out of the next aggregate."""

    name: str
    reason: str


@dataclass(frozen=True)
class Progress:
    """A client has done `step` of `steps` of its task in a round."""

    name: str
    stage: str
    round: int
    step: int
    steps: int
    loss: float
    tokens_per_s: float
    tokens: int


@dataclass(frozen=True)
class Sent:
    """A task went to a client; `payload_bytes` before framing."""

    name: str
    task_id: str
    payload_bytes: int


@dataclass(frozen=True)
class Received:
    """A reply came from a client; `failure` is the reason if the task failed."""

    name: str
    task_id: str
    payload_bytes: int
    failure: str = ""


@dataclass(frozen=True)
class Refused:
    """Something that a client sent, or asked for, was refused; the round goes on.

    `name` is the client's or, if that was not known, what its certificate or address says.
    `task_id` is empty if it was no reply.
    """

    name: str
    task_id: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """The mixture is made without the expert `name`; the plan goes on."""

    name: str
    reason: str


@dataclass(frozen=True)
class Traffic:
    """Bytes at the socket since the last such event, from (`up`) and to (`down`) a client."""

    name: str
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class StageStarted:
    """A stage of the plan begins: its index, kind, number of rounds, and what to think of first."""

    stage: int
    kind: str
    rounds: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageSkipped:
    """A stage ends before its last round because no client is left in it; the plan goes on."""

    stage: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Waiting:
    """The plan waits for clients who are away; `seconds` is for how long at most."""

    names: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class RoundStarted:
    """A round begins; `stage` and `round` count from 0."""

    stage: int
    round: int


@dataclass(frozen=True)
class RoundFinished:
    """A round is aggregated and on disk; `metrics` as the registry keeps them."""

    stage: int
    round: int
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """Held-out text was scored: bits per byte by text of a stage or the mixture (`name`)."""

    name: str
    table: Mapping[str, Any]


@dataclass(frozen=True)
class Scoring:
    """Held-out text is being scored for `name`: `done` of `total` passes over a text."""

    name: str
    done: int
    total: int


Event = (
    Joined
    | Left
    | Withdrawn
    | Progress
    | Sent
    | Received
    | Refused
    | Traffic
    | StageStarted
    | RoundStarted
    | RoundFinished
    | Evaluated
    | LeftOut
    | Scoring
    | StageSkipped
    | Waiting
)

STAGE_KEYS = ("stage", "kind")
ROUND_KEYS = ("round", "server-round")


def progress_of(name: str, task: Message, report: Report) -> Progress:
    """The event for `report` on `task`; stage and round come from the task's configuration."""
    stage, number = stage_and_round(task)
    return Progress(
        name=name,
        stage=stage,
        round=number,
        step=report.step,
        steps=report.steps,
        loss=report.loss,
        tokens_per_s=report.tokens_per_s,
        tokens=report.tokens,
    )


def stage_and_round(task: Message) -> tuple[str, int]:
    """`stage` and `round` (or `server-round`) of a task's configuration; "" and 0 without."""
    config: dict[str, object] = {}
    for record in task.content.config_records.values():
        config |= record
    stage = next((config[k] for k in STAGE_KEYS if isinstance(config.get(k), str)), "")
    number = next((config[k] for k in ROUND_KEYS if isinstance(config.get(k), int)), 0)
    return str(stage), int(str(number))
