"""A round that does not wait for everybody: quorum, deadline, and what becomes of late updates."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.strategies.members import name_of
from fedmore.strategies.plan import Stage

POLL_S = 0.02
NO_ANSWER = "no answer in time"


@runtime_checkable
class Keeps(Protocol):
    """A grid whose tasks may wait for nodes that are away; Flower's own cannot."""

    def keep(self, message_ids: Iterable[str]) -> None:
        """Have tasks stay open while their nodes are away."""
        ...

    def away(self, message_ids: Iterable[str]) -> Mapping[str, str]:
        """The open tasks among them whose nodes are away, and why."""
        ...


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
    waits for them. Nobody is waited for who is away: `away` says why, by task, and where late
    answers are kept the task is pending.
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
        self._keeper = grid if stage.late == "keep" and isinstance(grid, Keeps) else None
        self.pending = set(pending)
        self.away: dict[str, str] = {}
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

    def name_of(self, node_id: int) -> str:
        """Pass on."""
        return name_of(self.grid, node_id)

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
        if not asked and not self.all_are_late:  # Flower's evaluation, which asks nobody
            return []
        if self._keeper is not None:
            self._keeper.keep([*self.pending, *asked])
        replies = self._wait(asked, self.stage.timeout_s if timeout is None else timeout)
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        self.pending -= answered
        self.all_are_late = False
        return replies + self._set_aside({task for task in asked if task not in answered})

    def give_up(self, task_ids: Collection[str]) -> list[Message]:
        """These are not waited for any more, and their nodes may stop; what they came to."""
        self.pending -= set(task_ids)
        if not task_ids or not isinstance(self.grid, Withdraws):
            return []
        self.grid.withdraw(task_ids, NO_ANSWER)
        return list(self.grid.pull_messages(task_ids))

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
            self.away = dict(self._keeper.away(wanted)) if self._keeper is not None else {}
            if wanted <= self.away.keys() or gone >= timeout or self._enough(asked, replies, gone):
                return replies
            self._sleep(POLL_S)

    def _enough(self, asked: Sequence[str], replies: Sequence[Message], gone: float) -> bool:
        """Whether the deadline is over and a quorum has answered well."""
        if not self.stage.deadline_s or gone < self.stage.deadline_s:
            return False
        good = {r.metadata.reply_to_message_id for r in replies if not r.has_error()}
        return len(good & set(asked)) >= quorum(self.stage, len(asked))

    def _set_aside(self, unanswered: set[str]) -> list[Message]:
        """Give up what will not be waited for; what that came to."""
        if self.stage.late == "keep":
            self.pending |= unanswered if self.stage.deadline_s else unanswered & self.away.keys()
        return self.give_up(sorted(unanswered - self.pending))


def quorum(stage: Stage, asked: int) -> int:
    """How many of `asked` clients a round of `stage` needs."""
    return max(1, math.ceil(stage.quorum * asked - 1e-9))  # 0.7 * 10 is above 7 in binary
