"""Tracks the connected members: one stream each, dropped after some time without a sign of life.

It is used from the server's loop only. If a stream ends without a goodbye, its member counts as
present for `heartbeat_timeout_s` seconds, so that it can reconnect and continue its task. A member
is identified by its key, so a newer stream belongs to the same owner and replaces the older one at
once. The replaced process gets the reason and does not reconnect.
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
"""Most seconds that count between two sweeps; a longer gap was a stall of this process."""

OUSTED_KEPT = 16
"""Number of a member's replaced processes that are remembered."""


@dataclass(eq=False)
class Connection:
    """One stream; `wake` is set if there is something to send, `ended` if it must end."""

    member: "Member"
    session: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ending: str | None = None

    def end(self, reason: str) -> None:
        """Make the stream end with `reason`."""
        self.ending = self.ending or reason
        self.wake.set()
        self.ended.set()


@dataclass
class _Presence:
    """A present member; `seen` is in seconds during which this process was running."""

    connection: Connection
    attached: bool
    seen: float


class Connections:
    """The present members, by node id.

    Members that the task queue expects, because they were present before a restart, have
    `heartbeat_timeout_s` seconds from now to come back.
    """

    def __init__(
        self,
        queue: TaskQueue,
        emit: Callable[[Event], None],
        heartbeat_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._emit = emit
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._clock = clock
        self._present: dict[int, _Presence] = {}
        self._ousted: dict[int, list[str]] = {}
        self._swept = clock()
        self._awake = 0.0
        self._finishing = False
        self.stopping = False
        """Set when the server cuts all streams, so that no member counts as lost."""
        self._seen: set[str] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def admit(self, member: "Member", session: str) -> Connection:
        """Make a stream for `member`, which replaces its present one.

        Raises `NameTakenError` for a process that a newer one has replaced.
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
            self._emit(Joined(member.name, kind, target, rank, member.ranks))
        self._queue.join(member.node_id, session)
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
        """Record a sign of life."""
        present = self._of(connection)
        if present is not None:
            present.seen = self._awake
            self._seen.add(connection.member.name)

    def alive(self, node_id: int) -> None:
        """Record a sign of life from a transfer of a blob, beside the stream."""
        present = self._present.get(node_id)
        if present is not None:
            present.seen = self._awake

    def heard(self, names: Collection[str]) -> None:
        """Record a sign of life of members from whose connections bytes arrived."""
        for present in self._present.values():
            if present.connection.member.name in names:
                present.seen = self._awake

    def wake(self, node_id: int) -> None:
        """Wake the node's stream, because there is something to send."""
        present = self._present.get(node_id)
        if present is not None:
            present.connection.wake.set()

    def detach(self, connection: Connection) -> None:
        """Record that the stream has ended; the member may come back."""
        present = self._of(connection)
        if present is not None:
            present.attached = False
            if connection.ending is not None:
                self.leave(connection, connection.ending)
        if not any(p.attached for p in self._present.values()):
            self._empty.set()

    def leave(self, connection: Connection, reason: str, for_good: bool = False) -> None:
        """Remove the member, and fail its open tasks (`TaskQueue.leave`)."""
        if self._of(connection) is not None:
            name = connection.member.name
            del self._present[connection.member.node_id]
            self._queue.leave(connection.member.node_id, f"{name} left: {reason}", for_good)
            self._emit(Left(name, reason))

    def expel(self, node_id: int, reason: str) -> None:
        """Remove an excluded member and end its stream."""
        present = self._present.get(node_id)
        if present is not None:
            self.leave(present.connection, reason, for_good=True)
            present.connection.end(reason)
        else:
            self._queue.leave(node_id, reason, for_good=True)

    def sweep(self) -> None:
        """Remove every member without a sign of life for `heartbeat_timeout_s` seconds.

        Call it about every second. If this process was suspended, that time does not count, because
        the members' heartbeats of that time are still queued.
        """
        now = self._clock()
        self._awake += min(now - self._swept, STEP_S)
        self._swept = now
        overdue = self._awake - self._heartbeat_timeout_s
        for present in list(self._present.values()):
            if present.seen < overdue:
                reason = f"no sign of life for {self._heartbeat_timeout_s:g} s"
                self.leave(present.connection, reason)
                present.connection.end(reason)
        if overdue > 0:
            for node_id in self._queue.expected():
                reason = (
                    f"not back {self._heartbeat_timeout_s:g} s after the coordinator was started"
                )
                self._queue.leave(node_id, reason)

    def take_seen(self) -> set[str]:
        """Return and clear the names of members with a sign of life since the last call."""
        seen, self._seen = self._seen, set()
        return seen

    async def finish(self, timeout: float) -> None:
        """End every stream, including new ones, and wait until none is left."""
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
