"""A round that does not wait for everybody: quorum, deadline, and what becomes of late updates."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.strategies.members import name_of
from fedmore.strategies.rounds.returning_clients import Ask, Returning
from fedmore.strategies.stages.base import Stage

POLL_S = 0.02
NO_ANSWER = "no answer in time"
RESTARTED = "was started again; it is asked for the present round in place of an earlier one"
LEFT = 5
"""Flower's error code of a reply whose node went away before it answered."""


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


@runtime_checkable
class Restarts(Protocol):
    """A grid that tells a client that was started again from one that was only disconnected."""

    def interrupted(self, message_ids: Iterable[str]) -> Collection[str]:
        """The open tasks among them that were given to an earlier process of a node now here."""
        ...


class RoundGrid(Grid):
    """`grid` with the patience of `stage`; everything else is passed on.

    `pending` are the tasks that may still be answered late, with their nodes by id. Their answers
    come with those of a later `send_and_receive`, before the others; with `all_are_late` one that
    asks nobody waits for them. Nobody is waited for who is away: `away` says why, by task, and if
    late answers are kept the task is pending.

    `returning` asks those who come while the round is open. The pending task of a client that was
    started again is given up for that; one that was only disconnected works on at it.
    """

    def __init__(
        self,
        grid: Grid,
        stage: Stage,
        pending: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.grid, self.stage = grid, stage
        self._keeper = grid if stage.keeps_late and isinstance(grid, Keeps) else None
        self._node_of = dict(pending or {})
        self.pending = set(self._node_of)
        self.away: dict[str, str] = {}
        self.returning: Returning | None = None
        self.all_are_late = False
        self._clock, self._sleep = clock, sleep

    def set_run(self, run: object) -> None:
        """Pass the call on to the wrapped grid."""
        self.grid.set_run(run)  # type: ignore[arg-type]

    @property
    def run(self) -> object:  # type: ignore[override]
        """The run of the grid beneath."""
        return self.grid.run

    def create_message(  # type: ignore[override]
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str
    ) -> Message:
        """Pass the call on to the wrapped grid."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id)

    def name_of(self, node_id: int) -> str:
        """Pass the call on to the wrapped grid."""
        return name_of(self.grid, node_id)

    def get_node_ids(self) -> Iterable[int]:
        """Pass the call on to the wrapped grid."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass the call on to the wrapped grid."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass the call on to the wrapped grid."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Late answers to earlier tasks, then those to `messages` that came in time."""
        asked = self._push(messages)
        if not asked and not self.all_are_late:  # Flower's evaluation, which asks nobody
            return []
        replies = self._wait(asked, self.stage.timeout_s if timeout is None else timeout)
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        self.pending -= answered
        self.all_are_late, self.returning = False, None
        return replies + self._set_aside({task for task in asked if task not in answered})

    def let_in(self, group: str, ask: Ask, known: Iterable[int], missing: list[str]) -> None:
        """Ask clients that come back in this round too (`strategies.rounds.returning_clients`)."""
        self.returning = Returning(self.grid, group, ask, known, missing.append)

    def give_up(self, task_ids: Collection[str], reason: str = NO_ANSWER) -> list[Message]:
        """These are not waited for any more, and their nodes may stop; what they came to."""
        self.pending -= set(task_ids)
        if not task_ids or not isinstance(self.grid, Withdraws):
            return []
        self.grid.withdraw(task_ids, reason)
        return list(self.grid.pull_messages(task_ids))

    def _push(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        asked = list(self.grid.push_messages(messages))
        nodes = [message.metadata.dst_node_id for message in messages]
        self._node_of |= zip(asked, nodes, strict=True)
        if self._keeper is not None and (asked or self.all_are_late):
            self._keeper.keep([*self.pending, *asked])
        return asked

    def _wait(self, asked: list[str], timeout: float) -> list[Message]:
        """Replies until all answered or are away; clients that come meanwhile join `asked`."""
        began, replies = self._clock(), list[Message]()
        wanted = set(asked) or (set(self.pending) if self.all_are_late else set())
        while True:
            fresh = self._ask_returning(asked, wanted, replies)
            asked += fresh
            wanted |= set(fresh)
            open_ = [*self.pending, *(task for task in asked if task in wanted)]
            found = list(self.grid.pull_messages(open_))
            replies += found
            ids = {reply.metadata.reply_to_message_id for reply in replies}
            self.pending -= ids
            wanted -= ids
            gone = self._clock() - began
            every = wanted | self.pending
            self.away = dict(self._keeper.away(every)) if self._keeper is not None else {}
            all_in = wanted <= self.away.keys() and not self._greeting()
            if all_in or gone >= timeout or self._enough(asked, replies, gone):
                return replies
            self._sleep(POLL_S)

    def _ask_returning(
        self, asked: Sequence[str], wanted: AbstractSet[str], replies: list[Message]
    ) -> list[str]:
        """Ids of tasks for those who have come; adds what becomes of their old tasks to `replies`.

        `wanted` are the tasks of the round, out of `asked`, that are not answered yet.
        """
        if self.returning is None:
            return []
        if isinstance(self.grid, Restarts):
            lost = self.grid.interrupted(self.pending - set(asked))
            replies += self.give_up(sorted(lost), RESTARTED)
        left = {r.metadata.reply_to_message_id for r in replies if _has_left(r)}
        answered = {r.metadata.reply_to_message_id for r in replies} - left
        occupied = {self._node_of[task] for task in answered | wanted | self.pending}
        return self._push(self.returning.look(occupied))

    def _greeting(self) -> bool:
        return self.returning is not None and self.returning.greeting

    def _enough(self, asked: Sequence[str], replies: Sequence[Message], gone: float) -> bool:
        """Whether the deadline is over and a quorum has answered well."""
        if not self.stage.deadline_s or gone < self.stage.deadline_s:
            return False
        good = {r.metadata.reply_to_message_id for r in replies if not r.has_error()}
        return len(good & set(asked)) >= quorum(self.stage, len(asked))

    def _set_aside(self, unanswered: set[str]) -> list[Message]:
        """Give up what will not be waited for; what that came to."""
        if self.stage.keeps_late:
            self.pending |= unanswered if self.stage.deadline_s else unanswered & self.away.keys()
        return self.give_up(sorted(unanswered - self.pending))


def _has_left(reply: Message) -> bool:
    """Whether the node went away, or was told to drop the task because it had been away."""
    return reply.has_error() and (reply.error.code == LEFT or reply.error.reason == RESTARTED)


def quorum(stage: Stage, asked: int) -> int:
    """How many of `asked` clients a round of `stage` needs."""
    return max(1, math.ceil(stage.quorum * asked - 1e-9))  # 0.7 * 10 is above 7 in binary
