"""The state of the display as a value; `apply` makes a new board from a board and an event."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from types import MappingProxyType
from typing import Any

from fedmore.experts.ranks import described
from fedmore.strategies.events import (
    Evaluated,
    Event,
    Joined,
    Left,
    Progress,
    Received,
    RoundFinished,
    RoundStarted,
    Scoring,
    StageStarted,
    Traffic,
)


@dataclass(frozen=True)
class Client:
    """One client's line: its task is at `step` of `steps`.

    Bytes are those of its sockets so far.
    """

    name: str
    kind: str = ""
    target: str = ""
    rank: str = ""
    state: str = "connected"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True)
class Board:
    """All clients seen so far, and the progress of the plan, which waits for `expected` clients."""

    name: str
    expected: int
    clients: Mapping[str, Client] = field(default_factory=lambda: MappingProxyType({}))
    stage: int = -1
    kind: str = ""
    rounds: int = 0
    round: int = -1
    evaluated: str = ""
    scoring: str = ""

    @property
    def connected(self) -> int:
        """Number of connected clients."""
        return sum(c.state != "gone" for c in self.clients.values())

    def with_client(self, name: str, **changes: Any) -> "Board":
        """Return the board with one client's line changed or added."""
        client = replace(self.clients.get(name, Client(name)), **changes)
        return replace(self, clients=MappingProxyType({**self.clients, name: client}))

    def each(self, **changes: Any) -> "Board":
        """Return the board with the same change to every client's line."""
        changed = {name: replace(client, **changes) for name, client in self.clients.items()}
        return replace(self, clients=MappingProxyType(changed))


def apply(board: Board, event: Event) -> Board:
    """Return the board after `event`."""
    return _apply(event, board)


@singledispatch
def _apply(_event: object, board: Board) -> Board:
    return board


@_apply.register
def _(event: Joined, board: Board) -> Board:
    return board.with_client(
        event.name,
        kind=event.kind,
        target=event.target,
        rank=described(event.rank, event.ranks),
        state="connected",
    )


@_apply.register
def _(event: Left, board: Board) -> Board:
    return board.with_client(event.name, state="gone")


@_apply.register
def _(event: Progress, board: Board) -> Board:
    return board.with_client(
        event.name,
        state="training",
        step=event.step,
        steps=event.steps,
        loss=event.loss,
        tokens_per_s=event.tokens_per_s,
    )


@_apply.register
def _(event: Received, board: Board) -> Board:
    return board.with_client(event.name, state="failed" if event.failure else "done")


@_apply.register
def _(event: Traffic, board: Board) -> Board:
    line = board.clients.get(event.name, Client(event.name))
    return board.with_client(
        event.name,
        bytes_up=line.bytes_up + event.bytes_up,
        bytes_down=line.bytes_down + event.bytes_down,
    )


@_apply.register
def _(event: StageStarted, board: Board) -> Board:
    return replace(
        board,
        stage=event.stage,
        kind=event.kind,
        rounds=event.rounds,
        round=-1,
        evaluated="",
        scoring="",
    )


@_apply.register
def _(event: RoundStarted, board: Board) -> Board:
    return replace(board.each(step=0, steps=0), round=event.round)


@_apply.register
def _(event: RoundFinished, board: Board) -> Board:
    return replace(board, round=event.round)


@_apply.register
def _(event: Evaluated, board: Board) -> Board:
    return replace(board, evaluated=event.name, scoring="")


@_apply.register
def _(event: Scoring, board: Board) -> Board:
    return replace(board, scoring=f"scoring {event.name}: {event.done} of {event.total}")
