"""Which members are here: one stream each, given up after some time without a sign of life.

Used from the server's loop only. A stream that ends without a word leaves its member present for
`dead_after_s`, so that it can reconnect and go on with its task. A member is its key, so a newer
stream is the same owner's and takes over at once. The process that it took over from is told so,
and does not come back.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import NameTakenError
from fedmore.strategies.events import Event, Joined, Left

if TYPE_CHECKING:
    from fedmore.coordinator.store.registry import Member

FINISHED = "finished"
REPLACED = "replaced by a newer stream of the same client"
OUSTED = "another process has connected with this client's key; this one is not wanted any more"
STEP_S = 2.0
"""Most seconds that one sweep counts; what is above was a stall of this process."""

OUSTED_KEPT = 16
"""Processes of one member that are remembered to have been ousted."""


@dataclass(eq=False)
class Connection:
    """One stream. `wake` is set when there is something to send, `ended` when it shall end."""

    member: "Member"
    session: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: str | None = None

    def end(self, reason: str) -> None:
        """Let the stream end."""
        self.ending = self.ending or reason
        self.wake.set()
        self.ended.set()


@dataclass
class _Presence:
    """`seen` is in seconds that this process was awake."""

    connection: Connection
    attached: bool
    seen: float


class Connections:
    """Members present, by node id.

    Those that the mailbox expects (they were here before a restart) have `dead_after_s` from now to
    come back.
    """

    def __init__(
        self,
        mailbox: TaskQueue,
        emit: Callable[[Event], None],
        dead_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mailbox = mailbox
        self._emit = emit
        self._dead_after_s = dead_after_s
        self._clock = clock
        self._present: dict[int, _Presence] = {}
        self._ousted: dict[int, list[str]] = {}
        self._swept = clock()
        self._awake = 0.0
        self._finishing = False
        self.stopping = False
        """Set once the server cuts every stream, which is nobody's loss."""
        self._seen: set[str] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def admit(self, member: "Member", session: str) -> Connection:
        """A stream for `member`, in place of the one that it has.

        Raises `NameTakenError` for a process whose place a newer one has taken.
        """
        if session in self._ousted.get(member.node_id, ()):
            raise NameTakenError(f"{member.name!r}: {OUSTED}")
        present = self._present.get(member.node_id)
        if present is not None:
            self._replace(present.connection, session)
        connection = Connection(member, session)
        self._present[member.node_id] = _Presence(connection, True, self._awake)
        self._empty.clear()
        if present is None:
            rank = member.rank or 0
            kind, target = member.kind or "", member.target or ""
            self._emit(Joined(member.name, kind, target, rank))
        self._mailbox.join(member.node_id, session)
        if self._finishing:
            connection.end(FINISHED)
        return connection

    def _replace(self, connection: Connection, session: str) -> None:
        if connection.session == session:
            connection.end(REPLACED)
            return
        ousted = self._ousted.setdefault(connection.member.node_id, [])
        ousted.append(connection.session)
        del ousted[:-OUSTED_KEPT]
        connection.end(OUSTED)

    def seen(self, connection: Connection) -> None:
        """A sign of life."""
        present = self._of(connection)
        if present is not None:
            present.seen = self._awake
            self._seen.add(connection.member.name)

    def alive(self, node_id: int) -> None:
        """A sign of life beside the stream: a piece of a blob has come or gone."""
        present = self._present.get(node_id)
        if present is not None:
            present.seen = self._awake

    def heard(self, names: Collection[str]) -> None:
        """Bytes have come from these members: they are alive, whatever they have time to say."""
        for present in self._present.values():
            if present.connection.member.name in names:
                present.seen = self._awake

    def wake(self, node_id: int) -> None:
        """There is something to send to this node."""
        present = self._present.get(node_id)
        if present is not None:
            present.connection.wake.set()

    def detach(self, connection: Connection) -> None:
        """The stream has ended; the member may come back."""
        present = self._of(connection)
        if present is not None:
            present.attached = False
            if connection.ending is not None:
                self.leave(connection, connection.ending)
        if not any(p.attached for p in self._present.values()):
            self._empty.set()

    def leave(self, connection: Connection, reason: str, for_good: bool = False) -> None:
        """The member is gone, and so are its open tasks (`TaskQueue.leave`)."""
        if self._of(connection) is not None:
            name = connection.member.name
            del self._present[connection.member.node_id]
            self._mailbox.leave(connection.member.node_id, f"{name} left: {reason}", for_good)
            self._emit(Left(name, reason))

    def expel(self, node_id: int, reason: str) -> None:
        """A member that may not take part any more is gone, and its stream ends."""
        present = self._present.get(node_id)
        if present is not None:
            self.leave(present.connection, reason, for_good=True)
            present.connection.end(reason)
        else:
            self._mailbox.leave(node_id, reason, for_good=True)

    def sweep(self) -> None:
        """Give up every member without a sign of life for `dead_after_s`.

        To be called every second or so. If this process itself stood still, that time does not
        count: what the members said meanwhile is still to be read.
        """
        now = self._clock()
        self._awake += min(now - self._swept, STEP_S)
        self._swept = now
        overdue = self._awake - self._dead_after_s
        for present in list(self._present.values()):
            if present.seen < overdue:
                reason = f"no sign of life for {self._dead_after_s:g} s"
                self.leave(present.connection, reason)
                present.connection.end(reason)
        if overdue > 0:
            for node_id in self._mailbox.expected():
                reason = f"not back {self._dead_after_s:g} s after the coordinator was started"
                self._mailbox.leave(node_id, reason)

    def take_seen(self) -> set[str]:
        """Names of the members that gave a sign of life since this was last asked."""
        seen, self._seen = self._seen, set()
        return seen

    async def finish(self, timeout: float) -> None:
        """End every stream, those that come from now on too; waits until none is left."""
        self._finishing = True
        for present in self._present.values():
            present.connection.end(FINISHED)
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            return

    def _of(self, connection: Connection) -> _Presence | None:
        present = self._present.get(connection.member.node_id)
        return present if present is not None and present.connection is connection else None
