"""The database behind registry and journal: SQLite in the federation's folder, or PostgreSQL.

SQLite runs in WAL mode with full synchronisation, so what is committed survives a power cut. There
is one writer at a time on either: a writing transaction takes the lock as it begins (`BEGIN
IMMEDIATE`, an advisory lock), since `coordinator invite` may run beside `coordinator start`, and a
read that turns into a write would otherwise fail, or let two clients use up one token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from fedmore.coordinator.alone import Lock
from fedmore.coordinator.journal_tables import Base
from fedmore.coordinator.tables import StateRecord
from fedmore.experts.errors import ConfigError, RegistryError

WRITE = "fedmore_write"
BUSY_MS = 10_000
WRITER = 0x6665_646D_0001
"""Of PostgreSQL's advisory lock of a writing transaction."""
TIMEOUTS = {"keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 20_000}
"""libpq's: a server that is gone without a word is noticed."""
SCHEMA, VERSION = "schema", 1
"""Key of the state that says which version the tables are of; a change of them is a new one."""


class Database:
    """Opens the database at an SQLAlchemy URL and makes the tables that are missing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lost = ""
        try:
            self._engine = open_engine(url)
        except SQLAlchemyError as error:
            raise RegistryError(
                f"{url}: cannot be opened: {cause(error)}; is it this federation's, and whole?"
            ) from error
        self._reading = sessionmaker(self._engine)
        self._writing = sessionmaker(self._engine.execution_options(**{WRITE: True}))

    @property
    def shared(self) -> bool:
        """Whether other machines may use it too."""
        return self._engine.dialect.name != "sqlite"

    @contextmanager
    def session(self, write: bool = False) -> Iterator[Session]:
        """One transaction; what the database objects to becomes a `RegistryError`."""
        self._check_not_lost()
        try:
            with (self._writing if write else self._reading).begin() as session:
                yield session
        except SQLAlchemyError as error:
            raise RegistryError(f"{self.url}: {cause(error)}") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only coordinator on a shared database; the server lets go when we die.

        Raises `TransportError` when another one is, and `RegistryError` once the lock is lost, as
        does every transaction from then on. A file has its folder's lock instead.
        """
        if not self.shared:
            yield
            return
        try:
            with self._engine.connect() as connection, Lock(connection, self._lose):
                yield
        except BaseException:
            self._check_not_lost()
            raise

    def _lose(self, reason: str) -> None:
        self._lost = (
            f"{self.url}: the lock that keeps other coordinators off this database is lost "
            f"({reason}); see that the server runs, and start again"
        )

    def _check_not_lost(self) -> None:
        if self._lost:
            raise RegistryError(self._lost)

    def check(self) -> None:
        """Raise `RegistryError` where SQLite finds its file damaged."""
        if self.shared:
            return
        with self.session() as session:
            found = session.scalar(text("PRAGMA quick_check(1)"))
        if found != "ok":
            raise RegistryError(f"{self.url}: damaged ({found}); restore it from a copy")

    def look(self) -> None:
        """Raise `RegistryError` where the database does not answer, or its file is gone."""
        file = self._engine.url.database
        if not self.shared and file and not Path(file).is_file():
            raise RegistryError(f"{self.url}: is gone; stop, and restore it from a copy")
        with self.session() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()


def check_url(url: str) -> None:
    """Raise `ConfigError` for what is no database URL of ours, or holds a password."""
    try:
        parts = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"server.database: {error}") from error
    if parts.password is not None:
        raise ConfigError(
            "server.database holds a password; leave it out and use PGPASSWORD or ~/.pgpass"
        )
    if parts.get_backend_name() not in ("postgresql", "sqlite"):
        raise ConfigError(f"server.database: {parts.get_backend_name()} is not postgresql")


def open_engine(url: str) -> Engine:
    """An engine for `url` with all tables made; raises `RegistryError` for those of a stranger."""
    sqlite = url.startswith("sqlite")
    timeouts = {} if sqlite else TIMEOUTS
    engine = create_engine(url, pool_pre_ping=not sqlite, connect_args=timeouts)
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite if sqlite else _begin_shared)
    try:
        _make_tables(engine, url)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_tables(engine: Engine, url: str) -> None:
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        found = _version(connection)
        if found not in (None, VERSION):
            raise RegistryError(
                f"{url}: its tables are of version {found}, and this program's of version "
                f"{VERSION}; use the fedmore that made them"
            )
        Base.metadata.create_all(connection)
        if found is None:
            connection.execute(insert(StateRecord).values(key=SCHEMA, value=VERSION))


def _version(connection: Connection) -> object:
    if not inspect(connection).has_table(StateRecord.__tablename__):
        return None
    return connection.scalar(select(StateRecord.value).where(StateRecord.key == SCHEMA))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Take the transactions over from the driver, which would begin them too late."""
    connection.isolation_level = None
    for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _begin_shared(connection: Any) -> None:
    if connection.get_execution_options().get(WRITE, False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER})")


def cause(error: SQLAlchemyError) -> str:
    """The database's own words, without SQLAlchemy's link and statement."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
