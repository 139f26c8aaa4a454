"""The record of what has left this machine: `audit.jsonl` in the client's state folder.

One JSON object a line, each with the SHA-256 of itself and of the line before it, so that a line
that is changed, moved or taken out shows. There are two kinds of line. `allowed` and `refused` are
the guard's (`fedmore.client.egress.guard`) and say what an answer held. All others are messages as
they were handed to gRPC, and their `bytes` add up to all that was handed to it. Frequent messages
(`SUMMED`) are added up into one line. Open sums are in `audit.head`, with the number and hash of
the last line, so that lines cut off at the end show too.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from fedmore.client.state.two_slot_file import TwoSlotFile
from fedmore.experts.errors import EgressError
from fedmore.protos.system.files import PRIVATE, private_folder

FILE = "audit.jsonl"
HEAD = "audit.head"
START = "0" * 64
SUMMED = frozenset({"heartbeat", "progress", "upload", "held", "download"})
SUM_KEYS = {"time", "call", "bytes", "messages"}
SUM_S = 600.0
"""Longest time that a sum stays open, in seconds."""

SUMS = 16
"""Most sums that are open."""

Line = dict[str, Any]


class Audit:
    """Appends to the record below `folder`; safe between threads and between processes.

    A message is recorded before it is sent: raises `EgressError` if that cannot be written, and
    then it must not go out.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / FILE
        self._clock = clock
        with self._written():
            private_folder(folder)
            self.path.touch(mode=PRIVATE)
            self._head = TwoSlotFile(folder / HEAD)
        with self._writing():
            pass

    def record(self, call: str, size: int, *, task: str = "", digest: str = "") -> None:
        """A message of `size` bytes is about to leave, for a task or with a part of a blob."""
        line = self._line(call, task=task, digest=digest) | {"bytes": size, "messages": 1}
        with self._writing() as head:
            if call not in SUMMED:
                self._append(head, [*head["open"].values(), line])
            elif _add(head["open"], line, self._clock()):
                self._append(head, list(head["open"].values()))
            else:
                self._keep(head)

    def note(
        self,
        call: str,
        task: str,
        *,
        kind: str = "",
        arrays: Sequence[Mapping[str, Any]] = (),
        values: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> None:
        """What the guard decided on the answer to a task; no bytes of its own."""
        line = self._line(
            call, task=task, type=kind, arrays=list(arrays), values=dict(values or {}),
            reason=reason,
        )  # fmt: skip
        with self._writing() as head:
            self._append(head, [*head["open"].values(), line])

    def close(self) -> None:
        """Write down the sums that are open; nothing can be recorded any more."""
        with self._writing() as head:
            if head["open"]:
                self._append(head, list(head["open"].values()))
        self._head.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, call: str, **fields: object) -> Line:
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        return {"time": at, "call": call} | {key: value for key, value in fields.items() if value}

    def _append(self, head: Line, lines: Sequence[Line]) -> Line:
        """All in one write, so that a crash leaves either none of them or the sums with them."""
        text, number, last = "", head["lines"], head["hash"]
        for line in lines:
            number += 1
            chained = {"number": number, **line, "previous": last}
            last = hash_of(chained)
            text += json.dumps(chained | {"hash": last}) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        return self._keep({"lines": number, "hash": last, "size": size, "open": {}})

    def _keep(self, head: Line) -> Line:
        self._head.write(head)
        return head

    def _current(self) -> Line:
        """The head, brought up to lines that a crash left without one: their sums are in them."""
        head = whole_head(self._head.read())
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < head["size"]:
            raise EgressError(
                f"{self.path}: has lost lines; restore it, or move it and {HEAD} away to begin anew"
            )
        if size > head["size"]:
            cut = _cut_unfinished(self.path)
            lines = read_lines(self.path)
            last = lines[-1].get("hash", START) if lines else START
            head = {"lines": len(lines), "hash": last, "size": size - cut, "open": {}}
            if cut:
                reason = f"{cut} bytes of an unfinished line were cut off"
                head = self._append(head, [self._line("repair", reason=reason)])
        return head

    @contextmanager
    def _writing(self) -> Iterator[Line]:
        """The head as it is now, while nobody else writes."""
        with self._written(), self._head.locked():
            yield self._current()

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EgressError(
                f"{self.path}: cannot be written ({error.strerror}); nothing leaves this machine "
                "without a record"
            ) from error


def _add(sums: dict[str, Line], line: Line, now: float) -> bool:
    """Add a message to its sum; whether it is time to write the sums down."""
    key = "/".join(line.get(name, "") for name in ("call", "task", "digest"))
    known = sums.setdefault(key, line | {"bytes": 0, "messages": 0})
    known["bytes"] += line["bytes"]
    known["messages"] += 1
    began = min(each["time"] for each in sums.values())
    return now - datetime.fromisoformat(began).timestamp() >= SUM_S or len(sums) >= SUMS


def whole_head(known: Line) -> Line:
    """Number and hash of the last line, bytes of all, and open sums; of an empty record: none.

    Raises `EgressError` if `known` is something else.
    """
    empty: Line = {"lines": 0, "hash": START, "size": 0, "open": {}}
    head = empty | known
    sums = head["open"].values() if isinstance(head["open"], dict) else [None]
    right = all(type(head[key]) is type(value) for key, value in empty.items())
    if not right or not all(isinstance(line, dict) and line.keys() >= SUM_KEYS for line in sums):
        raise EgressError(f"{HEAD}: damaged; was the state folder copied whole?")
    return head


def hash_of(line: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a line without its own hash."""
    rest = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_lines(path: Path) -> list[Line]:
    """Every line; one that is not JSON raises `EgressError` with its number."""
    lines = []
    data = path.read_bytes() if path.is_file() else b""
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        try:
            lines.append(dict(json.loads(text)))
        except (ValueError, TypeError) as error:
            raise EgressError(f"{path}:{number}: not a line of the audit") from error
    return lines


def _cut_unfinished(path: Path) -> int:
    """Cut off what a power failure left of a last line; the number of bytes."""
    if not path.is_file():
        return 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    return len(data) - whole
