"""The guard: every message that leaves passes here, and whatever is not declared stays.

What may be in an answer is declared in `fedmore.client.egress.policy`. This module holds the rules
for every client: which words an error may carry and how exact a progress number is. It also has the
guard of a foreign app (`client join --app`), whose answers only its owner can judge. Imports
nothing heavy.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ArrayRecord, Message

from fedmore.client.egress.audit_log import Audit
from fedmore.experts.errors import EgressError, RankError, TransportError, WireError
from fedmore.protos.wire.blobs import MAX_BLOB
from fedmore.protos.wire.payloads import digest_of_payload, payload_of, size_of
from fedmore.protos.wire.records import MAX_CONTENT
from fedmore.protos.wire.status import describe
from fedmore.strategies.events import Report

SPEAKING = (EgressError, WireError, RankError, TransportError, FloatingPointError)
"""Errors whose message may leave. Theirs hold what the coordinator itself said, names, shapes and
numbers; the message of any other may hold a path or a piece of a document."""

LOSS_DECIMALS = 2
"""Decimals of the loss that progress tells: enough for a display, too few to tell texts apart."""


ReplyCheck = Callable[[Message], Message]
"""Gives the reply back, which may leave and is noted; raises `EgressError` for any other."""


class EgressGuard(Protocol):
    """What stands between the client's work and the wire."""

    @property
    def max_download(self) -> int:
        """Bytes of the largest blob that a task can have reason to bring."""
        ...

    @property
    def max_content(self) -> int:
        """Bytes of the largest task, beside its large arrays."""
        ...

    def check_task(self, task: Message) -> ReplyCheck:
        """What its reply must pass; raises `EgressError` for a task whose answer may not leave.

        It is called before the work, and what it gives after it, with the reply.
        """
        ...

    def progress(self, report: Report) -> Report:
        """What of a report may leave."""
        ...

    def reason(self, task_id: str, error: BaseException) -> str:
        """Why a task failed, in words that may leave; a refusal is noted."""
        ...


class AuditOnlyGuard:
    """The guard of a foreign Flower app: its answers are let through and noted."""

    max_download = MAX_BLOB
    max_content = MAX_CONTENT

    def __init__(self, audit: Audit) -> None:
        self.audit = audit

    def check_task(self, task: Message) -> ReplyCheck:
        """Accept every task, since the owner named the app; what is in its reply is noted."""

        def check_reply(reply: Message) -> Message:
            note_allowed(self.audit, task, reply)
            return reply

        return check_reply

    def progress(self, report: Report) -> Report:
        """The report with its numbers rounded."""
        return rounded(report)

    def reason(self, task_id: str, error: BaseException) -> str:
        """The error's class and place; no message of a foreign app is known to be harmless."""
        return noted_reason(self.audit, task_id, error, speaking=())


def rounded(report: Report) -> Report:
    """A report whose loss and speed say no more than a display needs."""
    loss, speed = round(report.loss, LOSS_DECIMALS), float(round(report.tokens_per_s))
    return Report(report.step, report.steps, loss, speed, report.tokens)


def reason_of(error: BaseException, speaking: tuple[type[Exception], ...] = SPEAKING) -> str:
    """What the operator learns of a failure; the owner's own log has all of it.

    The class and where it was raised; the message only if the class is one of `speaking`.
    """
    if isinstance(error, speaking):
        return describe(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{where}; the message is in the client's own log"


def noted_reason(
    audit: Audit,
    task_id: str,
    error: BaseException,
    speaking: tuple[type[Exception], ...] = SPEAKING,
) -> str:
    """`reason_of` an error; a refusal is noted."""
    # A message of ours may name a file that a task brought, and so the owner's folders.
    reason = reason_of(error, speaking).replace(str(audit.path.parent), "…")
    if isinstance(error, EgressError):
        private = f" ({error.private})" if error.private else ""
        audit.note("refused", task_id, reason=f"{error}{private}")
    return reason


def note_allowed(
    audit: Audit, task: Message, reply: Message, matrices: dict[str, Any] | None = None
) -> None:
    """Write down every array and value of an answer; `matrices` is added to its one array."""
    arrays: list[dict[str, Any]] = []
    values: dict[str, Any] = {}
    for key, record in ({} if reply.has_error() else reply.content).items():
        if isinstance(record, ArrayRecord):
            found = ((f"{key}/{name}", array) for name, array in record.items())
            arrays += [_array(name, array) | (matrices or {}) for name, array in found]
        else:
            values |= {f"{key}/{name}": _said(value) for name, value in record.items()}
    metadata = task.metadata
    audit.note(
        "allowed", metadata.message_id, kind=metadata.message_type, arrays=arrays, values=values
    )


def _said(value: Any) -> Any:
    """A value as JSON has it; bytes as their number and digest."""
    if isinstance(value, list):
        return [_said(each) for each in value]
    return f"{len(value)} bytes, {digest_of_payload(value)}" if isinstance(value, bytes) else value


def _array(name: str, array: Any) -> dict[str, Any]:
    payload = payload_of(array)
    return {
        "name": name,
        "codec": array.stype,
        "shape": list(array.shape),
        "bytes": size_of(payload),
        "digest": digest_of_payload(payload),
    }
