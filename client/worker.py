"""The thread that does the tasks, whatever becomes of the stream meanwhile.

A task that is done is remembered until the next: when the coordinator sends it again, because the
reply was lost with a stream, the same reply goes out and nothing is trained twice.
"""

import logging
import queue
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from flwr.app import Message

from fedmore.client.outbox import Outbox
from fedmore.client.patience import persist
from fedmore.client.progress import CancelledError, reporting, throttled
from fedmore.client.rpc import Link
from fedmore.experts.errors import FedmoreError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.flower import CLIENT_RAISED
from fedmore.protos.status import describe
from fedmore.protos.wire import PackedReply, pack_failure, pack_reply, unpack_task
from fedmore.strategies.events import Report

Handler = Callable[[Message], Message]
log = logging.getLogger(__name__)


class Worker:
    """Does one task at a time with `handler`. Outside threads may call everything public."""

    def __init__(self, handler: Handler, link: Link, patience_s: float) -> None:
        self._handler = handler
        self._link = link
        self._patience_s = patience_s
        self._queue: queue.SimpleQueue[pb.Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: set[str] = set()
        self._cancelled: set[str] = set()
        self._outbox: Outbox | None = None
        self._done: PackedReply | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End at the next report of the task in hand, or leave it behind after `timeout` s."""
        self._stopped.set()
        self._queue.put(None)
        self._thread.join(timeout)

    def attach(self, outbox: Outbox | None) -> None:
        """Speak through this stream from now on; None while there is no stream."""
        with self._lock:
            self._outbox = outbox

    def offer(self, task: pb.Task) -> None:
        """A task came; one that is in hand already is not taken twice."""
        with self._lock:
            if task.task_id in self._pending:
                return
            self._pending.add(task.task_id)
        self._queue.put(task)

    def cancel(self, task_id: str) -> None:
        """The task is no longer wanted."""
        self._cancelled.add(task_id)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None and not self._stopped.is_set():
            try:
                if self._done is None or self._done.message.task_id != task.task_id:
                    self._done = self._perform(task)
                if self._stopped.is_set():
                    return  # the link is closed, or about to be
                self._upload(self._done)
            except FedmoreError as error:
                self._forget(task.task_id, self._after_failed_upload(task.task_id, error))
            else:
                self._forget(task.task_id, self._done.message)

    def _perform(self, task: pb.Task) -> PackedReply:
        try:
            self._check_wanted(task.task_id)
            message = unpack_task(task, self._fetch)
            with reporting(self._sink(task.task_id)):
                return pack_reply(task.task_id, self._answer(message))
        except CancelledError:
            return pack_failure(task.task_id, "cancelled", CLIENT_RAISED)
        except FedmoreError as error:
            log.error("task %s failed: %s", task.task_id, error)
            return pack_failure(task.task_id, describe(error), CLIENT_RAISED)
        except Exception as error:
            log.exception("task %s failed", task.task_id)
            return pack_failure(task.task_id, _locate(error), CLIENT_RAISED)

    def _answer(self, message: Message) -> Message:
        reply = self._handler(message)
        if not isinstance(reply, Message):
            raise WireError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        return reply

    def _fetch(self, digest: str, size: int) -> bytes:
        received = bytearray()
        return persist(
            lambda: self._link.download(digest, size, received), self._patience_s, self._stopped
        )

    def _upload(self, reply: PackedReply) -> None:
        for digest, data in reply.blobs.items():

            def send(digest: str = digest, data: bytes = data) -> None:
                self._link.upload(digest, data)

            persist(send, self._patience_s, self._stopped)

    def _after_failed_upload(self, task_id: str, error: FedmoreError) -> pb.Reply | None:
        log.error("the reply to task %s could not be sent: %s", task_id, error)
        if isinstance(error, TransportError):
            return None  # no use: the stream fails for the same reason, and says so
        return pack_failure(task_id, describe(error), CLIENT_RAISED).message

    def _forget(self, task_id: str, reply: pb.Reply | None) -> None:
        # In one step: a task sent again on a new stream is either still pending, and its reply
        # goes out on that stream, or not, and is answered from `_done`.
        with self._lock:
            self._pending.discard(task_id)
            self._cancelled.discard(task_id)
            if reply is not None and self._outbox is not None:
                self._outbox.put(pb.ClientEvent(reply=reply))

    def _sink(self, task_id: str) -> Callable[[Report], None]:
        forward = throttled(lambda report: self._tell(task_id, report))

        def sink(report: Report) -> None:
            self._check_wanted(task_id)
            forward(report)

        return sink

    def _check_wanted(self, task_id: str) -> None:
        if self._stopped.is_set() or task_id in self._cancelled:
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
                self._outbox.put(pb.ClientEvent(progress=progress))


def _locate(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return describe(error) + where
