"""The registry's results: plain frozen values, detached from the database."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, TypeVar

Kind = Literal["expert", "adapter", "app"]


@dataclass(frozen=True)
class Member:
    """A client; `kind`, `target` and `rank` are None until it joins.

    `ranks` is the pattern of its ranks, of which `rank` is the largest; empty if all are `rank`.

    The operator may revoke a member, and a member may withdraw; both have a time and a reason.
    """

    name: str
    node_id: int
    kind: Kind | None
    target: str | None
    rank: int | None
    joined_at: datetime | None
    last_seen: datetime | None
    bytes_up: int
    bytes_down: int
    train_tokens: int
    certificate_expires: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str = ""
    withdrawn_at: datetime | None = None
    withdrawn_reason: str = ""
    ranks: str = ""

    @property
    def barred(self) -> str:
        """The reason why the member is excluded; empty if it is not."""
        for word, at, reason in (
            ("revoked by the operator", self.revoked_at, self.revoked_reason),
            ("withdrawn by its owner", self.withdrawn_at, self.withdrawn_reason),
        ):
            if at is not None:
                return f"{word} {at:%Y-%m-%d %H:%M} UTC{reason and ': '}{reason}"
        return ""


@dataclass(frozen=True)
class ExpertRow:
    """One version of an expert or adapter."""

    id: int
    name: str
    kind: Kind
    target: str
    rank: int
    params: int
    stage: int
    round: int
    digest: str
    created_at: datetime
    metrics: dict[str, Any]


@dataclass(frozen=True)
class RoundRow:
    """One finished round."""

    id: int
    stage: int
    kind: str
    round: int
    metrics: dict[str, Any]
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True)
class EventRow:
    """One event; ids are in order of time."""

    id: int
    at: datetime
    kind: str
    name: str
    payload: dict[str, Any]


Row = TypeVar("Row", Member, ExpertRow, RoundRow, EventRow)


def copied(record: object, kind: type[Row]) -> Row:
    """Copy the values of a database record into a `kind`."""
    return kind(**{field.name: getattr(record, field.name) for field in fields(kind)})
