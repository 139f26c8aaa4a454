"""What everything that leaves this machine passes: recorded first, sent after.

`AuditedStub` stands in for a gRPC stub, and `fedmore.client.transport.channel` has no other; so
there is no way to send a message that is not recorded. Here are also the guard and the audit of
those who have none: tests, and programs that only ask what a federation is.
"""

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Message

from fedmore.protos.wire.blobs import MAX_BLOB
from fedmore.protos.wire.records import MAX_CONTENT
from fedmore.protos.wire.status import describe
from fedmore.strategies.events import Report


class Recorder(Protocol):
    """The audit, as the wire sees it."""

    def record(self, call: str, size: int, *, task: str = "", digest: str = "") -> None:
        """A message of `size` bytes is about to leave; what this raises keeps it here."""
        ...


class Unrecorded:
    """An audit that keeps nothing."""

    def record(self, call: str, size: int, *, task: str = "", digest: str = "") -> None:
        """Discard the record."""


class Unguarded:
    """A guard that lets everything through."""

    max_download = MAX_BLOB
    max_content = MAX_CONTENT

    def check_task(self, task: Message) -> Callable[[Message], Message]:
        """Accept every task, and return its reply unchanged."""
        return lambda reply: reply

    def progress(self, report: Report) -> Report:
        """Return the report unchanged."""
        return report

    def reason(self, task_id: str, error: BaseException) -> str:
        """The error's class, message and place in the code."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        return describe(error) + where


class AuditedStub:
    """A stub whose every message is told to `recorder` before gRPC has it."""

    def __init__(self, stub: Any, recorder: Recorder) -> None:
        self._stub = stub
        self._recorder = recorder

    def call(self, name: str, request: Any, **options: Any) -> Any:
        """Call `name` with one message."""
        digest = getattr(request, "digest", "")
        self._recorder.record(name.lower(), request.ByteSize(), digest=digest)
        return getattr(self._stub, name)(request, **options)

    def connect(self, events: Iterator[Any], **options: Any) -> "Sending":
        """Open the stream; every event is recorded before it is sent."""

        def tell(event: Any) -> None:
            kind = event.WhichOneof("event")
            task = getattr(getattr(event, kind), "task_id", "")
            self._recorder.record(kind, event.ByteSize(), task=task)

        return Sending(self._stub.Connect, events, tell, options)

    def upload(self, parts: Iterator[Any], digest: str, **options: Any) -> "Sending":
        """Begin an upload; every part is recorded before it is sent."""

        def tell(part: Any) -> None:
            self._recorder.record("upload", part.ByteSize(), digest=digest)

        return Sending(self._stub.Upload.future, parts, tell, options)


class Sending:
    """A call that is under way; `call` is gRPC's.

    When its messages cannot be made or recorded they end there, and `check` raises why; gRPC
    itself would log the error and end the call with the status UNKNOWN.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        messages: Iterator[Any],
        tell: Callable[[Any], None],
        options: dict[str, Any],
    ) -> None:
        self._messages, self._tell = messages, tell
        self._error: Exception | None = None
        self.call = method(self._recorded(), **options)

    def check(self) -> None:
        """Raise what went wrong at this end, if anything did."""
        if self._error is not None:
            raise self._error

    def _recorded(self) -> Iterator[Any]:
        try:
            for message in self._messages:
                self._tell(message)
                yield message
        except Exception as error:
            self._error = error
