"""`client audit`: read the record of what has left, check its chain, add it up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmore.client.egress.audit_log import FILE, HEAD, START, Line, hash_of, read_lines, whole_head
from fedmore.client.state.two_slot_file import read_slots
from fedmore.experts.errors import ConfigError, EgressError

if TYPE_CHECKING:
    from rich.console import RenderableType

DECISIONS = ("allowed", "refused")
LONGEST_LINE = 1_000


@dataclass(frozen=True)
class AuditReport:
    """The lines, the sums that are still open, and how many bytes they come to."""

    lines: Sequence[Line]
    open: Sequence[Line]

    @property
    def totals(self) -> dict[str, dict[str, int]]:
        """Messages and bytes by call, in order of the first."""
        found: dict[str, dict[str, int]] = {}
        for line in [*self.lines, *self.open]:
            if "bytes" in line:
                entry = found.setdefault(line["call"], {"messages": 0, "bytes": 0})
                entry["messages"] += line["messages"]
                entry["bytes"] += line["bytes"]
        return found

    @property
    def bytes(self) -> int:
        """All bytes that were handed to gRPC."""
        return sum(entry["bytes"] for entry in self.totals.values())

    def as_json(self) -> dict[str, Any]:
        """What `client audit --json` prints."""
        return {
            "lines": list(self.lines),
            "open": list(self.open),
            "totals": self.totals,
            "bytes": self.bytes,
        }


def state_of(where: Path) -> Path:
    """The state folder: `where` itself or, of an invite, where `client join` keeps it."""
    if where.is_dir():
        return where
    from fedmore.client.state.paths import default_state
    from fedmore.protos.enrolment.invite import read_invite

    return default_state(read_invite(where))


def read_ledger(folder: Path) -> AuditReport:
    """The record in a state folder; raises `EgressError` if it was tampered with."""
    path = folder / FILE
    if not path.is_file() and not (folder / HEAD).is_file():
        raise ConfigError(f"{path}: there is none; give the client's state folder or its invite")
    head = whole_head(
        read_slots(folder / HEAD)
    )  # first: a client that runs may add lines meanwhile
    lines = read_lines(path)
    verify(lines, path)
    if len(lines) < head["lines"]:
        raise EgressError(f"{path}: ends after {len(lines)} of {head['lines']} lines; it was cut")
    if head["lines"] and lines[head["lines"] - 1]["hash"] != head["hash"]:
        raise EgressError(f"{path}:{head['lines']}: not the line that was written; it was replaced")
    # A crash can come between lines and head; then the sums of the head are among the lines.
    sums = head["open"].values() if len(lines) == head["lines"] else ()
    return AuditReport(lines, list(sums))


def verify(lines: Iterable[Line], path: Path) -> None:
    """Raise `EgressError`, naming the first line that is not as it was written."""
    last = START
    for number, line in enumerate(lines, 1):
        if line.get("hash") != hash_of(line) or line.get("number") != number:
            raise EgressError(f"{path}:{number}: was changed after it was written, or moved")
        if line.get("previous") != last:
            raise EgressError(f"{path}:{number}: does not follow the line before; one is missing")
        last = line["hash"]


def view(ledger: AuditReport) -> "RenderableType":
    """What was decided, answer by answer, and all bytes by kind of message.

    An answer is a few short lines, so that it can be read in 80 columns and searched in a pipe.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from fedmore.protos.system.terminal import plain

    lines = [
        Text(indent + plain(text, LONGEST_LINE), style="bold" if not indent else "")
        for line in ledger.lines
        if line["call"] in DECISIONS
        for indent, text in _lines(line)
    ]
    sent = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    sent.add_column("message")
    for heading in ("times", "bytes"):
        sent.add_column(heading, justify="right")
    for call, entry in ledger.totals.items():
        sent.add_row(call, f"{entry['messages']:,}", f"{entry['bytes']:,}")
    sent.add_row("in all", "", f"{ledger.bytes:,}", style="bold")
    return Group(*lines, sent, f"{len(ledger.lines)} lines; the chain of hashes is whole")


def _lines(line: Line) -> list[tuple[str, str]]:
    """An answer's lines, each with its indent."""
    moment = line["time"][:19].replace("T", " ")
    about = f"{moment}  task {line.get('task', '')[:8] or '-'}  {line.get('type', '')}".rstrip()
    if line["call"] == "refused":
        return [("", f"{about}  REFUSED"), ("  ", line["reason"])]
    found = [("", about)]
    for array in line.get("arrays", ()):
        numbers = numbers_of(array)
        bits = f", {8 * array['bytes'] / numbers:.4g} bits each" if numbers else ""
        found += [
            ("  ", f"{array['name']} as {array['codec']}, sha256 {array['digest'][:12]}"),
            ("    ", f"{numbers:,} numbers{bits}: {array['bytes']:,} bytes"),
            *(("    ", shape) for shape in _shapes(array)),
        ]
    values = line.get("values", {}).items()
    return found + [("  ", f"{key.partition('/')[2]} {value}") for key, value in values]


def _shapes(array: dict[str, Any]) -> list[str]:
    """A line for each shape of the factors that an array holds; else its own shape, if any."""
    return [part for part in shape_of(array).split(", ") if part]


def shape_of(array: dict[str, Any]) -> str:
    """The shape of an array; for factors, their shapes and how many there are of each."""
    if factors := array.get("factors"):
        return ", ".join(f"{times} of {shape}" for shape, times in factors.items())
    return "x".join(map(str, array["shape"]))


def numbers_of(array: dict[str, Any]) -> int:
    """How many numbers an array holds: of its factors, or of its own shape."""
    shapes = array.get("factors") or {"x".join(map(str, array["shape"])): 1}
    total = 0
    for shape, times in shapes.items():
        product = 1
        for side in shape.split("x"):
            product *= int(side or 1)
        total += product * times
    return total
