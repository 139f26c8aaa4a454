"""The tables of `registry.db`, and the engine that opens it.

SQLite runs in WAL mode with full synchronisation, so what is committed survives a power cut. A
writer takes the lock when its transaction begins (`BEGIN IMMEDIATE`): `coordinator invite` may
run beside `coordinator start`, and a read that turns into a write would otherwise fail at once.
"""

from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Engine,
    String,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    select,
)
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

WRITE = "fedmore_write"
BUSY_MS = 10_000


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment; SQLite forgets the zone, so UTC goes in and comes out."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the naive UTC time that is stored."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Back to an aware time."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON}  # noqa: RUF012


class MemberRecord(Base):
    """One client, from its invite on; `joined_at` is null until it has enrolled."""

    __tablename__ = "members"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    node_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    token_expires: Mapped[datetime]
    credential_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    kind: Mapped[str | None] = mapped_column(String(16))
    target: Mapped[str | None] = mapped_column(String(64))
    rank: Mapped[int | None]
    joined_at: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]
    bytes_up: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_down: Mapped[int] = mapped_column(BigInteger, default=0)
    train_tokens: Mapped[int] = mapped_column(BigInteger, default=0)


class ExpertRecord(Base):
    """One version of an expert or adapter: what a round made of it."""

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
    """Something that happened."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]


class StateRecord(Base):
    """One named value: the phase, the digest of a checkpoint."""

    __tablename__ = "state"
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)


Record = TypeVar("Record", bound=Base)


def open_engine(url: str) -> Engine:
    """An engine for `url` with all tables made."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    Base.metadata.create_all(engine.execution_options(**{WRITE: True}))
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Take the transactions over from the driver, which would begin them too late."""
    connection.isolation_level = None
    for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def upsert(session: Session, table: type[Record], **key: object) -> Record:
    """The record with this key, or a new one."""
    row = session.scalar(select(table).filter_by(**key))
    if row is None:
        row = table(**key)
        session.add(row)
    return row


def cause(error: SQLAlchemyError) -> str:
    """The database's own words, without SQLAlchemy's link and statement."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
