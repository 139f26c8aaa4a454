"""A round that does not wait for everybody: quorum, deadline, and what becomes of late updates."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.strategies.plan import Stage

POLL_S = 0.02


@runtime_checkable
class Withdraws(Protocol):
    """A grid that can take a task back; Flower's own cannot."""

    def withdraw(self, message_ids: Iterable[str], reason: str) -> None:
        """Tell the nodes to stop; what they answer is dropped."""
        ...


class RoundGrid(Grid):
    """`grid` with the patience of `stage`; everything else is passed on.

    `pending` are the tasks that may still be answered late, by id. Their answers come with those
    of a later `send_and_receive`, before the others; with `all_are_late` one that asks nobody
    waits for them.
    """

    def __init__(
        self,
        grid: Grid,
        stage: Stage,
        pending: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.grid, self.stage = grid, stage
        self.pending = set(pending)
        self.all_are_late = False
        self._clock, self._sleep = clock, sleep

    def set_run(self, run: object) -> None:
        """Pass on."""
        self.grid.set_run(run)  # type: ignore[arg-type]

    @property
    def run(self) -> object:  # type: ignore[override]
        """The run of the grid beneath."""
        return self.grid.run

    def create_message(  # type: ignore[override]
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str
    ) -> Message:
        """Pass on."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Late answers to earlier tasks, then those to `messages` that came in time."""
        asked = list(self.grid.push_messages(messages))
        replies = self._wait(asked, self.stage.timeout_s if timeout is None else timeout)
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        self._give_up([task for task in asked if task not in answered])
        self.pending -= answered
        self.all_are_late = False
        return replies

    def _wait(self, asked: Sequence[str], timeout: float) -> list[Message]:
        began, replies = self._clock(), list[Message]()
        wanted = set(asked) or (set(self.pending) if self.all_are_late else set())
        while True:
            open_ = [*self.pending, *(task for task in asked if task in wanted)]
            found = list(self.grid.pull_messages(open_))
            replies += found
            ids = {reply.metadata.reply_to_message_id for reply in found}
            self.pending -= ids
            wanted -= ids
            gone = self._clock() - began
            if not wanted or gone >= timeout or self._enough(asked, replies, gone):
                return replies
            self._sleep(POLL_S)

    def _enough(self, asked: Sequence[str], replies: Sequence[Message], gone: float) -> bool:
        """Whether the deadline is over and a quorum has answered well."""
        if not self.stage.deadline_s or gone < self.stage.deadline_s:
            return False
        good = {r.metadata.reply_to_message_id for r in replies if not r.has_error()}
        return len(good & set(asked)) >= quorum(self.stage, len(asked))

    def _give_up(self, unanswered: Sequence[str]) -> None:
        if self.stage.deadline_s and self.stage.late == "keep":
            self.pending |= set(unanswered)
        elif unanswered and isinstance(self.grid, Withdraws):
            self.grid.withdraw(unanswered, "the round went on without it")


def quorum(stage: Stage, asked: int) -> int:
    """How many of `asked` clients a round of `stage` needs."""
    return max(1, math.ceil(stage.quorum * asked - 1e-9))  # 0.7 * 10 is above 7 in binary
