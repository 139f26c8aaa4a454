"""A round that does not wait for everybody: quorum, deadline, and what becomes of late updates."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from flwr.app import Message
from flwr.serverapp import Grid

from fedmore.strategies.rounds.delegating_grid import DelegatingGrid
from fedmore.strategies.rounds.returning_clients import Ask, Returning
from fedmore.strategies.stages.base import Stage

POLL_S = 0.02
NO_ANSWER = "no answer in time"
RESTARTED = "was started again; it is asked for the present round in place of an earlier one"
LEFT = 5
"""Flower's error code of a reply whose node went away before it answered."""


class RoundGrid(DelegatingGrid):
    """`grid` with the patience of `stage`; everything else is passed on.

    `pending` are the tasks that may still be answered late, with their nodes by id. Their answers
    come with those of a later `send_and_receive`, before the others; with `all_are_late` one that
    asks nobody waits for them. A node that is away is not waited for: `absent` says why, by task,
    and if late answers are kept the task is pending.

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
        super().__init__(grid)
        self.stage = stage
        self._node_of = dict(pending or {})
        self.pending = set(self._node_of)
        self.absent: dict[str, str] = {}
        self.returning: Returning | None = None
        self.all_are_late = False
        self._clock, self._sleep = clock, sleep

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
        if not task_ids or not self.withdraws:
            return []
        self.withdraw(task_ids, reason)
        return list(self.pull_messages(task_ids))

    def _push(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        asked = list(self.push_messages(messages))
        nodes = [message.metadata.dst_node_id for message in messages]
        self._node_of |= zip(asked, nodes, strict=True)
        if self.stage.keeps_late and (asked or self.all_are_late):
            self.keep([*self.pending, *asked])
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
            found = list(self.pull_messages(open_))
            replies += found
            ids = {reply.metadata.reply_to_message_id for reply in replies}
            self.pending -= ids
            wanted -= ids
            gone = self._clock() - began
            every = wanted | self.pending
            self.absent = dict(self.away(every)) if self.stage.keeps_late else {}
            all_in = wanted <= self.absent.keys() and not self._greeting()
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
        lost = self.interrupted(self.pending - set(asked))
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
            self.pending |= unanswered if self.stage.deadline_s else unanswered & self.absent.keys()
        return self.give_up(sorted(unanswered - self.pending))


def _has_left(reply: Message) -> bool:
    """Whether the node went away, or was told to drop the task because it had been away."""
    return reply.has_error() and (reply.error.code == LEFT or reply.error.reason == RESTARTED)


def quorum(stage: Stage, asked: int) -> int:
    """How many of `asked` clients a round of `stage` needs."""
    return max(1, math.ceil(stage.quorum_fraction * asked - 1e-9))  # 0.7 * 10 is above 7 in binary
