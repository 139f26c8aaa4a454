"""A client's time in a federation: connected, doing tasks, reconnecting, until told to finish."""

import secrets
import threading
from collections.abc import Callable

from fedmore.client.invite import Credential
from fedmore.client.outbox import Outbox
from fedmore.client.patience import Patience
from fedmore.client.rpc import Call, Link
from fedmore.client.worker import Handler, Worker
from fedmore.experts.errors import TransportError
from fedmore.protos import federation_pb2 as pb

HANG_UP_S = 1.0


class Session:
    """`run` returns when the federation is finished or `stop` was called.

    A lost connection is tried again for `patience_s` seconds; `on_status` hears in plain words
    what goes on.
    """

    def __init__(
        self,
        credential: Credential,
        *,
        fingerprint: str = "",
        patience_s: float = 300.0,
        on_status: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._credential = credential
        self._hello = pb.Hello(session=secrets.token_hex(8), fingerprint=fingerprint)
        self._patience_s = patience_s
        self._on_status = on_status
        self._stopped = threading.Event()
        self._outbox: Outbox | None = None

    def run(self, handler: Handler) -> bool:
        """Answer tasks with `handler`, in a thread of its own; true when the federation finished.

        Raises what the coordinator refused with, or `TransportError` at the end of patience.
        """
        link = self._credential.link()
        worker = Worker(handler, link, self._patience_s)
        worker.start()
        try:
            return self._stay_connected(link, worker)
        finally:
            self._stopped.set()
            worker.stop(timeout=HANG_UP_S)
            link.close()

    def stop(self, reason: str = "stopped") -> None:
        """Leave; from any thread. `run` returns false soon after."""
        self._stopped.set()
        outbox = self._outbox
        if outbox is not None:
            _say_goodbye(outbox, reason)

    def _stay_connected(self, link: Link, worker: Worker) -> bool:
        patience = Patience(self._patience_s)
        while not self._stopped.is_set():
            try:
                if self._converse(link, worker, patience):
                    return True
                lost = TransportError(f"{link.address}: the coordinator ended the stream")
            except TransportError as error:
                lost = error
            if self._stopped.is_set():
                break
            delay = patience.next_delay(lost)
            self._on_status(f"{lost}; trying again in {delay:.1f} s")
            self._stopped.wait(delay)
        return False

    def _converse(self, link: Link, worker: Worker, patience: Patience) -> bool:
        self._outbox = outbox = Outbox(self._hello)
        if self._stopped.is_set():  # by a `stop` that came too early to see this outbox
            return False
        call = link.connect(outbox)
        worker.attach(outbox)
        finished = False
        try:
            for event in call:
                finished = self._hear(event, worker, outbox, patience) or finished
        except TransportError:
            if not finished:
                raise
        except KeyboardInterrupt:
            _say_goodbye(outbox, "interrupted")
            call.end(HANG_UP_S)
            raise
        finally:
            worker.attach(None)
            _hang_up(outbox, call)
        return finished

    def _hear(
        self, event: pb.ServerEvent, worker: Worker, outbox: Outbox, patience: Patience
    ) -> bool:
        kind = event.WhichOneof("event")
        if kind == "welcome":
            patience.reset()
            outbox.heartbeat_s = event.welcome.heartbeat_s or outbox.heartbeat_s
            self._on_status(f"connected to {event.welcome.federation.name}")
        elif kind == "task":
            worker.offer(event.task)
        elif kind == "cancel":
            worker.cancel(event.cancel.task_id)
        elif kind == "finish":
            outbox.close()
            return True
        return False


def _say_goodbye(outbox: Outbox, reason: str) -> None:
    outbox.put(pb.ClientEvent(leave=pb.Leave(reason=reason)))
    outbox.close()


def _hang_up(outbox: Outbox, call: Call) -> None:
    outbox.close()
    call.end(timeout=0.0)
