"""A client's time in a federation: connected, doing tasks, reconnecting, until told to finish."""

import contextlib
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fedmore.client.egress.guard import EgressGuard
from fedmore.client.identity.enrolment import Identity
from fedmore.client.identity.renewal import Renewal
from fedmore.client.session.waiting import Waiting
from fedmore.client.session.worker import Handler, Worker
from fedmore.client.transport.audited_stub import Recorder, Unguarded, Unrecorded
from fedmore.client.transport.channel import Link
from fedmore.client.transport.outbox import Outbox
from fedmore.client.transport.retry import Backoff, Quiet
from fedmore.experts.errors import PeerError, TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.system.terminal import plain

HANG_UP_S = 1.0
LONGEST_NAME = 200


class Session:
    """`run` returns when the federation is finished or `stop` was called.

    A lost connection is tried again for `patience_s` seconds; `on_status` hears in plain words
    what goes on, and `on_info` what the federation is, at each new stream. What is said passes
    `guard`, and `audit` before it leaves. What tasks bring lies in `downloads`, where a later
    session finds it; without, in a temporary folder.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        fingerprint: str = "",
        patience_s: float = 300.0,
        on_status: Callable[[str], None] = lambda _: None,
        guard: EgressGuard | None = None,
        audit: Recorder | None = None,
        downloads: Path | None = None,
        on_info: Callable[[FederationInfo], None] = lambda _: None,
    ) -> None:
        self._identity = identity
        self._hello = pb.Hello(session=secrets.token_hex(8), fingerprint=fingerprint)
        self._patience_s = patience_s
        self._on_status = on_status
        self._waiting = Waiting(on_status)
        self._guard = guard or Unguarded()
        self._audit = audit or Unrecorded()
        self._downloads = downloads
        self._on_info = on_info
        self._stopped = threading.Event()
        self._failed: Exception | None = None
        self._outbox: Outbox | None = None

    def run(self, handler: Handler) -> bool:
        """Answer tasks with `handler`, in a thread of its own; true when the federation finished.

        Raises what the coordinator refused with, `TransportError` at the end of patience, or
        `EgressError` when what leaves can no longer be recorded.
        """
        with self._folder() as folder, self._identity.link(self._audit) as link:
            worker = Worker(handler, link, self._guard, folder, self._patience_s, self._fail)
            worker.start()
            try:
                with Renewal(self._identity, link, self._on_status):
                    finished = self._stay_connected(link, worker)
            finally:
                self._stopped.set()
                worker.stop()
                link.close()  # ends the calls of the worker's threads
                worker.join(HANG_UP_S)
        if self._failed is not None:
            raise self._failed
        return finished

    def stop(self, reason: str = "stopped") -> None:
        """Leave; from any thread. `run` returns false soon after."""
        self._stopped.set()
        outbox = self._outbox
        if outbox is not None:
            outbox.leave(reason)

    def _fail(self, error: Exception) -> None:
        self._failed = error
        self.stop()

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        if self._downloads is not None:
            yield self._downloads
            return
        # A handler that is left behind at the end may still write into it.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            yield Path(name)

    def _stay_connected(self, link: Link, worker: Worker) -> bool:
        patience, quiet = Backoff(self._patience_s), Quiet(self._on_status)
        while not self._stopped.is_set():
            try:
                if self._converse(link, worker, patience, quiet):
                    return True
                lost = TransportError(f"{link.address}: the coordinator ended the stream")
            except PeerError:
                raise
            except TransportError as error:
                lost = error
            if self._stopped.is_set():
                break
            delay = patience.next_delay(lost)
            quiet.lost(lost, self._patience_s)
            self._stopped.wait(delay)
        return False

    def _converse(self, link: Link, worker: Worker, patience: Backoff, quiet: Quiet) -> bool:
        self._outbox = outbox = Outbox(self._hello, worker.in_hand)
        if self._stopped.is_set():  # by a `stop` that came too early to see this outbox
            return False
        call = link.connect(outbox)
        finished = False
        try:
            for event in call:
                if event.HasField("welcome"):
                    patience.reset()
                    quiet.connected(plain(event.welcome.federation.name, LONGEST_NAME))
                finished = self._hear(event, worker, outbox) or finished
        except TransportError:
            if not finished:
                raise
        except KeyboardInterrupt:
            outbox.leave("interrupted")
            call.end(HANG_UP_S)
            raise
        finally:
            worker.attach(None)
            outbox.close()
            call.end(timeout=0.0)
        return finished

    def _hear(self, event: pb.ServerEvent, worker: Worker, outbox: Outbox) -> bool:
        kind = event.WhichOneof("event")
        if kind == "welcome":
            self._on_info(FederationInfo.from_proto(event.welcome.federation))
            outbox.beat(event.welcome.heartbeat_s or outbox.heartbeat_s)
            worker.attach(outbox)
        elif kind == "task":
            worker.offer(event.task)
        elif kind == "cancel":
            worker.cancel(event.cancel.task_id)
        elif kind == "taken":
            worker.taken(event.taken.task_id)
        elif kind == "news" and not worker.in_hand():
            self._waiting.hear(event.news)
        elif kind == "finish":
            outbox.close()
            return True
        return False
