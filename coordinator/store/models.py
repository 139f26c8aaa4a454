"""The tables of the registry."""

from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    String,
    TypeDecorator,
    UniqueConstraint,
    select,
)
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, column_property, mapped_column

from fedmore.coordinator.store.state_keys import RANKS


def now() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A time that is stored in UTC, since SQLite drops the zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to naive UTC for storage."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert back to an aware time."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The base class of all tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012


class StateRecord(Base):
    """One named value, such as the phase or the digest of a checkpoint."""

    __tablename__ = "state"
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)


class MemberRecord(Base):
    """One client, from its invite on; `joined_at` is null until it has enrolled.

    `identity` is the SHA-256 of its public key or, without TLS, of its secret.
    """

    __tablename__ = "members"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    node_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    token_expires: Mapped[datetime]
    identity: Mapped[str | None] = mapped_column(String(64), unique=True)
    certificate_expires: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    revoked_reason: Mapped[str] = mapped_column(default="")
    withdrawn_at: Mapped[datetime | None]
    withdrawn_reason: Mapped[str] = mapped_column(default="")
    kind: Mapped[str | None] = mapped_column(String(16))
    target: Mapped[str | None] = mapped_column(String(64))
    rank: Mapped[int | None]
    # A state, since tables that exist get no new columns; earlier versions have no such state.
    _ranks: Mapped[Any] = column_property(
        select(StateRecord.value)
        .where(StateRecord.key == RANKS + name)
        .correlate_except(StateRecord)
        .scalar_subquery()
    )
    joined_at: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]
    bytes_up: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_down: Mapped[int] = mapped_column(BigInteger, default=0)
    train_tokens: Mapped[int] = mapped_column(BigInteger, default=0)

    @property
    def ranks(self) -> str:
        """The pattern of its ranks; empty if all are `rank`."""
        return self._ranks or ""


class ExpertRecord(Base):
    """One version of an expert or adapter, the result of a round."""

    __tablename__ = "experts"
    __table_args__ = (UniqueConstraint("name", "stage", "round"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(64))
    rank: Mapped[int]
    params: Mapped[int] = mapped_column(BigInteger)
    stage: Mapped[int]
    round: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    metrics: Mapped[dict[str, Any]]


class RoundRecord(Base):
    """One finished round; a second run of the same round replaces it."""

    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("stage", "round"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    round: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]


class EventRecord(Base):
    """An event of the federation."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]


Record = TypeVar("Record", bound=Base)


def upsert(session: Session, table: type[Record], **key: object) -> Record:
    """Return the record with this key, or add a new one."""
    row = session.scalar(select(table).filter_by(**key))
    if row is None:
        row = table(**key)
        session.add(row)
    return row
