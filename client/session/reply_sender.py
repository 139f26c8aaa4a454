"""The thread that brings replies to the coordinator, and again until they are on its disk.

A reply is kept until the coordinator says `Taken`. On each new stream its blobs are offered again,
and the coordinator takes those that it lacks; then the reply is sent. While a stream is silent
about it the reply alone is repeated, less and less often. The coordinator takes the first and
ignores the rest.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedmore.client.transport.channel import Link
from fedmore.client.transport.outbox import Outbox
from fedmore.client.transport.retry import Backoff
from fedmore.experts.errors import TransportError, WireError
from fedmore.protos.wire.messages import PackedReply

HEARTBEATS = 4
"""Seconds without `Taken` after which a reply is repeated; then after twice as many, and so on."""

REPEAT_S = 60.0
"""Longest time between repetitions, in seconds."""

KEPT = 16
KEPT_BYTES = 256 << 20
"""Number of replies, and of their bytes in memory, above which no further task is begun."""

TRIES = 5
"""How often a blob is offered that the coordinator finds damaged.

A piece lost on the way costs two: one that ends too early and, once resumed, one of other content.
"""

Failed = Callable[[str, Exception], PackedReply]
Fatal = Callable[[Exception], None]
log = logging.getLogger(__name__)


@dataclass
class _PendingReply:
    reply: PackedReply
    wait_s: float = 0.0
    due: float = 0.0
    uploaded: bool = False
    refused: int = 0
    memory: int = field(init=False)

    def __post_init__(self) -> None:
        self.memory = sum(len(b) for b in self.reply.blobs.values() if isinstance(b, bytes))


class ReplySender:
    """Thread-safe.

    `failed` makes the reply that says that another could not be sent; `fatal` hears what ends the
    thread before its time.
    """

    def __init__(
        self,
        link: Link,
        failed: Failed,
        fatal: Fatal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._failed = failed
        self._fatal = fatal
        self._clock = clock
        self._changed = threading.Condition()
        self._parcels: dict[str, _PendingReply] = {}
        self._outbox: Outbox | None = None
        self._stopped = False
        self._backoff = Backoff(math.inf)
        self._thread = threading.Thread(target=self._live, name="courier", daemon=True)

    def start(self) -> None:
        """Start the thread that sends replies."""
        self._thread.start()

    def stop(self) -> None:
        """End once the call in hand has."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the end, up to `timeout` seconds."""
        self._thread.join(timeout)

    def attach(self, outbox: Outbox | None) -> None:
        """Send through this stream from now on; None means that no stream is open."""
        with self._changed:
            self._outbox = outbox
            for parcel in self._parcels.values():
                parcel.due, parcel.wait_s, parcel.uploaded = 0.0, 0.0, False
            self._changed.notify_all()

    def bring(self, reply: PackedReply) -> None:
        """Keep `reply` until it is taken."""
        with self._changed:
            self._parcels[reply.message.task_id] = _PendingReply(reply)
            self._changed.notify_all()

    def again(self, task_id: str) -> bool:
        """Send the reply once more, as the coordinator asks; False if there is no such reply."""
        with self._changed:
            parcel = self._parcels.get(task_id)
            if parcel is not None:
                parcel.due, parcel.uploaded = 0.0, False
                self._changed.notify_all()
            return parcel is not None

    def taken(self, task_id: str) -> None:
        """The coordinator has it, or does not want it."""
        with self._changed:
            self._parcels.pop(task_id, None)
            self._changed.notify_all()

    def task_ids(self) -> list[str]:
        """The tasks whose replies are kept."""
        with self._changed:
            return list(self._parcels)

    def wait_for_room(self) -> None:
        """Until little enough is kept for another task to be done."""

        def room() -> bool:
            memory = sum(parcel.memory for parcel in self._parcels.values())
            return self._stopped or (len(self._parcels) < KEPT and memory < KEPT_BYTES)

        with self._changed:
            self._changed.wait_for(room)

    def _live(self) -> None:
        try:
            while (next_ := self._wait()) is not None:
                self._bring(*next_)
        except Exception as error:
            log.exception("no reply can be sent any more")
            self._fatal(error)

    def _bring(self, task_id: str, parcel: _PendingReply, outbox: Outbox) -> None:
        try:
            self._upload(parcel)
        except TransportError as error:
            self._put_off(task_id, parcel, error)
        except Exception as error:
            parcel.refused += isinstance(error, WireError)
            if 0 < parcel.refused < TRIES:
                self._put_off(task_id, parcel, error)
            else:
                log.exception("the reply to task %s cannot be sent", task_id)
                self._replace(task_id, parcel, error)
        else:
            self._backoff.reset()
            self._hand_over(task_id, parcel, outbox)

    def _put_off(self, task_id: str, parcel: _PendingReply, error: Exception) -> None:
        delay = self._backoff.next_delay(error)
        log.info("the reply to task %s waits %.1f s: %s", task_id, delay, error)
        with self._changed:
            parcel.due = self._clock() + delay

    def _wait(self) -> tuple[str, _PendingReply, Outbox] | None:
        """The next reply to bring, when it is time and there is a stream; None at the end."""
        with self._changed:
            while not self._stopped:
                first = min(self._parcels.items(), key=lambda item: item[1].due, default=None)
                if first is None or self._outbox is None:
                    self._changed.wait()
                elif (left := first[1].due - self._clock()) > 0:
                    self._changed.wait(left)
                else:
                    return first[0], first[1], self._outbox
            return None

    def _upload(self, parcel: _PendingReply) -> None:
        for digest, payload in parcel.reply.blobs.items() if not parcel.uploaded else ():
            self._link.upload(digest, payload)

    def _hand_over(self, task_id: str, parcel: _PendingReply, outbox: Outbox) -> None:
        with self._changed:
            if self._outbox is outbox and self._parcels.get(task_id) is parcel:
                outbox.reply(parcel.reply.message)
                parcel.uploaded = True
                first = HEARTBEATS * outbox.heartbeat_s
                parcel.wait_s = min(max(2 * parcel.wait_s, first), max(REPEAT_S, first))
                parcel.due = self._clock() + parcel.wait_s

    def _replace(self, task_id: str, parcel: _PendingReply, error: Exception) -> None:
        failure = self._failed(task_id, error)
        with self._changed:
            if self._parcels.get(task_id) is parcel:
                self._parcels[task_id] = _PendingReply(failure)
