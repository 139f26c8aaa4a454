"""What the client says on one stream: replies, progress, and heartbeats whatever else is said.

Bounded: a reply waits once however often it is asked for, and of a task's progress only the latest
is kept, so a slow connection gets less of it and not later.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from fedmore.protos import federation_pb2 as pb


class Outbox:
    """An iterator of events for gRPC to send; ends after `close`.

    `in_hand` names the tasks that a heartbeat lists.
    """

    def __init__(
        self,
        hello: pb.Hello,
        in_hand: Callable[[], Sequence[str]] = tuple,
        heartbeat_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heartbeat_s = heartbeat_s
        self._in_hand = in_hand
        self._clock = clock
        self._changed = threading.Condition()
        self._first: pb.Hello | None = hello
        self._replies: dict[str, pb.Reply] = {}
        self._progress: dict[str, pb.Progress] = {}
        self._last: pb.Leave | None = None
        self._closed = False
        self._beaten = clock()

    def reply(self, reply: pb.Reply) -> None:
        """Say this after the replies before it and the last progress of its task."""
        with self._changed:
            self._replies[reply.task_id] = reply
            self._changed.notify()

    def progress(self, progress: pb.Progress) -> None:
        """Say how far a task is, in place of what was not said yet."""
        with self._changed:
            self._progress[progress.task_id] = progress
            self._changed.notify()

    def leave(self, reason: str) -> None:
        """Say goodbye after all else, and end."""
        with self._changed:
            self._last = pb.Leave(reason=reason)
            self._closed = True
            self._changed.notify()

    def close(self) -> None:
        """Nothing more will be said than what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def beat(self, heartbeat_s: float) -> None:
        """A heartbeat every `heartbeat_s` seconds from now on."""
        with self._changed:
            self.heartbeat_s = heartbeat_s
            self._changed.notify()

    def __iter__(self) -> Iterator[pb.ClientEvent]:
        return self

    def __next__(self) -> pb.ClientEvent:
        with self._changed:
            while (event := self._next()) is None:
                if self._closed:
                    raise StopIteration
                self._changed.wait(max(0.0, self._beaten + self.heartbeat_s - self._clock()))
        if event.WhichOneof("event") == "heartbeat":
            event.heartbeat.tasks.extend(self._in_hand())  # not under the lock: it takes others
        return event

    def _next(self) -> pb.ClientEvent | None:
        if self._first is not None:
            hello, self._first = self._first, None
            return pb.ClientEvent(hello=hello)
        if not self._closed and self._clock() >= self._beaten + self.heartbeat_s:
            self._beaten = self._clock()
            return pb.ClientEvent(heartbeat=pb.Heartbeat())
        if self._replies:
            task_id = next(iter(self._replies))
            if task_id in self._progress:
                return pb.ClientEvent(progress=self._progress.pop(task_id))
            return pb.ClientEvent(reply=self._replies.pop(task_id))
        if self._progress:
            return pb.ClientEvent(progress=self._progress.pop(next(iter(self._progress))))
        if self._last is not None:
            leave, self._last = self._last, None
            return pb.ClientEvent(leave=leave)
        return None
