"""The display of `coordinator start`: live on a terminal, plain lines elsewhere.

`render` and `line` are pure. The observers hold a board and may be called from any thread.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmore.coordinator.monitor.dashboard_state import Board, Client, apply
from fedmore.coordinator.monitor.event_lines import line
from fedmore.protos.system.terminal import plain
from fedmore.strategies.events import Event, Progress, Scoring

PROGRESS_EVERY_S = 5.0
LONGEST_CELL = 200


class Observer(Protocol):
    """Shows events; it is a context manager for the time of the display."""

    def __call__(self, event: Event) -> None:
        """Show `event`."""

    def say(self, text: str) -> None:
        """Print a line that stays visible."""

    def __enter__(self) -> Self:
        """Begin the display."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the display and leave its last state on the screen."""


def make_observer(console: Console, name: str, expected: int, live: bool = True) -> Observer:
    """A live display if `console` is a terminal and `live` is set, else plain lines."""
    board, live = Board(name, expected), live and console.is_terminal
    return TerminalObserver(console, board) if live else LogObserver(console, board)


class TerminalObserver:
    """Redraws the board a few times per second."""

    def __init__(self, console: Console, board: Board) -> None:
        self.board = board
        self._console = console
        self._lock = threading.Lock()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def __call__(self, event: Event) -> None:
        """Update the board, and print important events above it."""
        with self._lock:
            self.board = apply(self.board, event)
        if (text := line(event)) and not isinstance(event, Progress | Scoring):
            self.say(text)

    def say(self, text: str) -> None:
        """Print above the live display."""
        self._console.print(text, highlight=False, markup=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        return render(self.board)


class LogObserver:
    """Prints one line per event, and one every few seconds for a client's progress."""

    def __init__(
        self, console: Console, board: Board, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.board = board
        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Print the event's line, if it has one and it is due."""
        with self._lock:
            self.board = apply(self.board, event)
            if isinstance(event, Progress) and not self._due(event.name, event.step == event.steps):
                return
            if isinstance(event, Scoring) and not self._due(event.name, event.done == event.total):
                return
        if text := line(event):
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line without wrapping and flush it, since it may go to a pipe."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._console.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def _due(self, name: str, last: bool) -> bool:
        due = last or self._clock() - self._last.get(name, float("-inf")) >= PROGRESS_EVERY_S
        if due:
            self._last[name] = self._clock()
        return due


def cell(text: object) -> Text:
    """Make a table cell of a peer's text, without markup and control characters."""
    return Text(plain(str(text), LONGEST_CELL))


def render(board: Board) -> RenderableType:
    """Render the whole board."""
    return Panel(
        Group(Text(_headline(board), style="bold"), _clients(board)),
        title=board.name,
        title_align="left",
    )


def _headline(board: Board) -> str:
    if board.stage < 0:
        return f"waiting for clients: {board.connected} of {board.expected} here"
    stage = f"stage {board.stage + 1}: {board.kind}"
    if board.round >= 0:
        stage += f" · round {board.round + 1} of {board.rounds}"
    if board.scoring:
        return f"{stage} · {board.scoring}"
    return f"{stage} · evaluated {board.evaluated}" if board.evaluated else stage


def _clients(board: Board) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("client", "trains", "rank", "", "step", "loss", "tokens/s", "up", "down"):
        table.add_column(heading, justify="left" if heading in ("client", "trains") else "right")
    table.columns[3].ratio = 1
    for client in board.clients.values():
        table.add_row(*_row(client))
    return table


def _row(client: Client) -> tuple[RenderableType, ...]:
    style = {"gone": "dim strike", "failed": "red"}.get(client.state, "")
    return (
        Text(plain(client.name, LONGEST_CELL), style=style),
        cell(f"{client.kind} {client.target}"),
        cell(client.rank),
        ProgressBar(total=max(client.steps, 1), completed=client.step),
        f"{client.step}/{client.steps}" if client.steps else client.state,
        "" if client.loss is None else f"{client.loss:.3f}",
        f"{client.tokens_per_s:.0f}" if client.tokens_per_s else "",
        size(client.bytes_up),
        size(client.bytes_down),
    )


def size(count: float) -> str:
    """Format bytes in powers of 1000, such as `3.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
