"""Clients who come, or come back, while a round is open: they are asked for their part in it.

A client that was killed and started again is not to sit out the rounds until its old task is
answered, nor is one that was away when the round began.
"""

from collections.abc import Callable, Collection, Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.experts.errors import WireError
from fedmore.strategies.members import HELLO, Member, member_of

TRIES = 3
"""Number of times that one node is asked in a round, however often it comes and goes."""

Ask = Callable[[int, Member], Message | None]
"""Makes the task of a member in the round that is open; None if it has no part in it."""


class Returning:
    """Looks who is here on `grid` and is not `known` to the round; says hello, then asks.

    `known` are the nodes that were asked when the round began. `missing` hears why a node that
    came does not take part.
    """

    def __init__(
        self,
        grid: Grid,
        group: str,
        ask: Ask,
        known: Iterable[int],
        missing: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._grid, self._group, self._ask, self._missing = grid, group, ask, missing
        self._known = set(known)
        self._gone: set[int] = set()
        self._tries: dict[int, int] = {}
        self._greeted: dict[str, int] = {}

    @property
    def greeting(self) -> bool:
        """Whether somebody who came has yet to say who it is."""
        return bool(self._greeted)

    def look(self, occupied: Collection[int]) -> list[Message]:
        """Tasks for those who have come; `occupied` nodes have a task, or have answered one."""
        here = set(self._grid.get_node_ids())
        self._gone |= self._known - here
        came = (here - self._known) | (here & self._gone)
        self._gone -= here
        free = [node for node in sorted(came - set(occupied)) if self._tries_left(node)]
        self._known |= here
        if free:
            self._greet(free)
        return self._welcome() if self._greeted else []

    def _tries_left(self, node: int) -> bool:
        self._tries[node] = self._tries.get(node, 0) + 1
        return self._tries[node] <= TRIES

    def _greet(self, nodes: Iterable[int]) -> None:
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type=HELLO, group_id=self._group)
            for node in nodes
        ]
        for message, task_id in zip(messages, self._grid.push_messages(messages), strict=True):
            self._greeted[task_id] = message.metadata.dst_node_id

    def _welcome(self) -> list[Message]:
        found = []
        for reply in self._grid.pull_messages(list(self._greeted)):
            node = self._greeted.pop(reply.metadata.reply_to_message_id)
            try:
                message = self._ask(node, member_of(reply))
            except WireError as error:
                self._missing(f"node {node}: {error}")
                continue
            if message is not None:
                found.append(message)
        return found
