"""The thread that does the tasks, whatever becomes of the stream meanwhile.

A task is in hand from its offer until its reply is `Taken`. Offering it again in that time only
sends its reply again, if there is one. So nothing is done twice in one process, however often the
connection is lost. If the process ends before the reply is taken, the task is done again, and the
app decides whether that costs anything. Our app remembers its last answer
(`fedmore.client.state.memory`); a foreign one may not.
"""

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from flwr.app import Message

from fedmore.client.egress.guard import EgressGuard
from fedmore.client.session.downloads import Downloads
from fedmore.client.session.reply_sender import ReplySender
from fedmore.client.training.progress import CancelledError, reporting, throttled
from fedmore.client.transport.channel import Link
from fedmore.client.transport.outbox import Outbox
from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import CLIENT_RAISED
from fedmore.protos.wire.messages import PackedReply, pack_failure, pack_reply, unpack_task
from fedmore.strategies.events import Report

TASKS = 32
"""Tasks that wait or are done; the coordinator offers what is above again, later."""

Handler = Callable[[Message], Message]
log = logging.getLogger(__name__)


class Worker:
    """Does one task at a time with `handler`. Outside threads may call everything public.

    `fatal` hears what ends one of its threads before its time.
    """

    def __init__(
        self,
        handler: Handler,
        link: Link,
        guard: EgressGuard,
        downloads: Path,
        patience_s: float,
        fatal: Callable[[Exception], None],
    ) -> None:
        self._handler = handler
        self._guard = guard
        self._fatal = fatal
        self._stopped = threading.Event()
        self._courier = ReplySender(link, self._failure, fatal)
        self._downloads = Downloads(downloads, link, patience_s, self._stopped)
        self._queue: queue.SimpleQueue[pb.Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: dict[str, bool] = {}  # whether it was cancelled
        self._files: dict[str, set[str]] = {}  # a reply may name them until it is taken
        self._outbox: Outbox | None = None
        self._thread = threading.Thread(target=self._live, name="worker", daemon=True)

    def start(self) -> None:
        """Start the worker's thread and the thread that sends replies."""
        self._courier.start()
        self._thread.start()

    def stop(self) -> None:
        """End at the next report of the task in hand."""
        self._stopped.set()
        self._queue.put(None)
        self._courier.stop()

    def join(self, timeout: float) -> None:
        """Wait for the end; a handler that goes on for longer is left behind."""
        self._courier.join(timeout)
        self._thread.join(timeout)

    def attach(self, outbox: Outbox | None) -> None:
        """Speak through this stream from now on; None while there is no stream."""
        with self._lock:
            self._outbox = outbox
        self._courier.attach(outbox)

    def in_hand(self) -> list[str]:
        """Ids of the tasks that are waiting, being done, or done and not taken."""
        with self._lock:
            return [*self._pending, *self._courier.task_ids()]

    def offer(self, task: pb.Task) -> None:
        """A task came; one that is in hand already is not done twice."""
        with self._lock:
            if task.task_id in self._pending or self._courier.again(task.task_id):
                return
            if len(self._pending) >= TASKS:
                log.warning("task %s has to wait: %d are in hand", task.task_id, TASKS)
                return
            self._pending[task.task_id] = False
        self._queue.put(task)

    def cancel(self, task_id: str) -> None:
        """The task is no longer wanted."""
        with self._lock:
            if task_id in self._pending:
                self._pending[task_id] = True

    def taken(self, task_id: str) -> None:
        """The coordinator has the reply to this task, or does not want it."""
        self._courier.taken(task_id)
        with self._lock:
            if task_id not in self._pending and task_id in self._files:
                del self._files[task_id]
                self._downloads.keep(set().union(*self._files.values()))

    def _live(self) -> None:
        try:
            while (task := self._queue.get()) is not None and not self._stopped.is_set():
                self._courier.wait_for_room()
                self._do(task)
        except Exception as error:
            log.exception("no task can be done any more")
            self._fatal(error)

    def _do(self, task: pb.Task) -> None:
        reply = self._perform(task)
        with self._lock:  # in one step, or the task is in nobody's hand for a moment
            del self._pending[task.task_id]
            self._courier.bring(reply)

    def _perform(self, task: pb.Task) -> PackedReply:
        try:
            self._check_wanted(task.task_id)
            limit = self._guard.max_content
            message = unpack_task(task, lambda *blob: self._fetch(task.task_id, *blob), limit)
            check_reply = self._guard.check_task(message)
            with reporting(self._sink(task.task_id)):
                reply = self._answer(message)
            return pack_reply(task.task_id, check_reply(reply))
        except CancelledError:
            return pack_failure(task.task_id, "cancelled", CLIENT_RAISED)
        except Exception as error:
            log.exception("task %s failed", task.task_id)
            return self._failure(task.task_id, error)

    def _failure(self, task_id: str, error: Exception) -> PackedReply:
        return pack_failure(task_id, self._guard.reason(task_id, error), CLIENT_RAISED)

    def _answer(self, message: Message) -> Message:
        reply = self._handler(message)
        if not isinstance(reply, Message):
            raise WireError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        return reply

    def _fetch(self, task_id: str, digest: str, size: int) -> Path:
        if size > self._guard.max_download:
            raise WireError(
                f"a task names a blob of {size} bytes; it has no reason to bring more than "
                f"{self._guard.max_download}"
            )
        with self._lock:
            self._files.setdefault(task_id, set()).add(digest)
        return self._downloads.fetch(digest, size, lambda: self._check_wanted(task_id))

    def _sink(self, task_id: str) -> Callable[[Report], None]:
        forward = throttled(lambda report: self._tell(task_id, self._guard.progress(report)))

        def sink(report: Report) -> None:
            self._check_wanted(task_id)
            forward(report)

        return sink

    def _check_wanted(self, task_id: str) -> None:
        if self._stopped.is_set() or self._pending.get(task_id, False):
            raise CancelledError(task_id)

    def _tell(self, task_id: str, report: Report) -> None:
        progress = pb.Progress(
            task_id=task_id,
            step=report.step,
            steps=report.steps,
            loss=report.loss,
            tokens_per_s=report.tokens_per_s,
            tokens=report.tokens,
        )
        with self._lock:
            if self._outbox is not None:
                self._outbox.progress(progress)
