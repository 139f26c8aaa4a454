"""The database of registry and journal: SQLite in the federation's folder, or PostgreSQL.

SQLite runs in WAL mode with full synchronisation, so committed changes survive a power cut. Both
databases have one writer at a time: a writing transaction takes a lock when it begins (`BEGIN
IMMEDIATE`, or an advisory lock). This matters since `coordinator invite` may run beside
`coordinator start`. Without the lock, a read that turns into a write would fail, or two clients
could use up one token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from fedmore.coordinator.store import checksums, read_only
from fedmore.coordinator.store.advisory_lock import Lock
from fedmore.coordinator.store.commit_mark import CommitMark
from fedmore.coordinator.store.journal_models import Base
from fedmore.coordinator.store.models import StateRecord
from fedmore.coordinator.store.state_keys import SCHEMA
from fedmore.experts.errors import RegistryError, StoreError

WRITE = "fedmore_write"
BUSY_MS = 10_000
RESTORE = "restore the folder from a copy"
WRITER = 0x6665_646D_0001
"""Key of PostgreSQL's advisory lock for a writing transaction."""
TIMEOUTS = {"keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 20_000}
"""Options of libpq that detect a server that vanished silently."""
VERSION = 1
"""Version of the tables, which every change of them increases."""


class Database:
    """A database at an SQLAlchemy URL.

    With `make`, missing tables are created; without it, an empty database is an error. A `frozen`
    database is only read, and its folder may be read-only.
    """

    def __init__(self, url: str | URL, *, make: bool = True, frozen: bool = False) -> None:
        parts = make_url(url)
        sqlite = parts.get_backend_name() == "sqlite"
        self.name = str(parts.database) if sqlite else parts.render_as_string()
        self.frozen = frozen
        self._lost = ""
        self._mark = CommitMark(Path(self.name)) if sqlite else None
        mark = self._mark.read() if self._mark else 0  # read before the database, which may advance
        with _explained(self.name, "cannot be opened: "):
            self._engine = open_engine(parts, self.name, make=make, frozen=frozen)
        self._reading = sessionmaker(self._engine)
        self._writing = sessionmaker(self._engine.execution_options(**{WRITE: True}))
        self._check_mark(mark)

    @property
    def shared(self) -> bool:
        """Whether other machines may use the database too."""
        return self._engine.dialect.name != "sqlite"

    @contextmanager
    def session(self, write: bool = False) -> Iterator[Session]:
        """Run one transaction; errors of the database become `RegistryError`."""
        self._check_not_lost()
        if write:
            self.check_writable()
        maker = self._writing if write else self._reading
        with _explained(self.name):
            with maker.begin() as session:
                yield session
                session.flush()
                changes = checksums.changes(session.connection()) if write and self._mark else 0
            if write and self._mark:
                self._mark.write(changes)

    def _check_mark(self, mark: int) -> None:
        if self._mark and mark:
            try:
                with self.session() as session:
                    self._mark.check(checksums.changes(session.connection()), mark)
            except BaseException:
                self.close()
                raise

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only coordinator on a shared database; the server releases the lock if we die.

        Raises `TransportError` if there is another one. If the lock is lost, this and every later
        transaction raise `RegistryError`. A SQLite file needs no such lock, since its folder has
        one.
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
            f"{self.name}: the lock that keeps other coordinators off this database is lost "
            f"({reason}); see that the server runs, and start again"
        )

    def _check_not_lost(self) -> None:
        if self._lost:
            raise RegistryError(self._lost)

    def check_writable(self) -> None:
        """Raise `StoreError` if the database is read-only."""
        if self.frozen:
            raise StoreError(
                f"{self.name}: its folder is read-only, so nothing can be changed here"
            )

    def check(self) -> None:
        """Raise `RegistryError` if the file or a value in it is damaged."""
        if self.shared:
            return
        with self.session() as session:
            found = session.scalar(text("PRAGMA integrity_check(1)"))
            if found == "ok" and (wrong := checksums.check(session.connection(), Base.metadata)):
                found = f"table {wrong} is not as it was written"
        if found != "ok":
            raise RegistryError(f"{self.name}: damaged ({found}); {RESTORE}")

    def look(self) -> None:
        """Raise `RegistryError` if the database does not answer or its file is gone."""
        if not self.shared and not Path(self.name).is_file():
            raise RegistryError(f"{self.name}: is gone; stop, and {RESTORE}")
        with self.session() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
        if self._mark:
            self._mark.close()


def open_engine(url: URL, name: str, *, make: bool, frozen: bool) -> Engine:
    """Open an engine with all tables; raises `RegistryError` if they are of another version."""
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and not make and not _has_bytes(Path(name)):
        raise _empty(name)  # before SQLite creates the file
    timeouts = {} if sqlite else TIMEOUTS
    where = read_only.url_of(Path(name)) if sqlite and frozen else url
    engine = create_engine(where, pool_pre_ping=not sqlite, connect_args=timeouts)
    if sqlite:
        event.listen(engine, "connect", _prepare_frozen if frozen else _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite if sqlite else _begin_shared)
    try:
        _make_tables(engine, name, make=make, frozen=frozen)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_tables(engine: Engine, name: str, *, make: bool, frozen: bool) -> None:
    with engine.execution_options(**{WRITE: not frozen}).begin() as connection:
        found = _version(connection)
        if found is None and not make:
            raise _empty(name)
        if found not in (None, VERSION):
            raise RegistryError(
                f"{name}: its tables are of version {found}, and this program's of version "
                f"{VERSION}; use the fedmore that made them"
            )
        if frozen:
            return
        Base.metadata.create_all(connection)
        if engine.dialect.name == "sqlite":
            checksums.install(connection, Base.metadata)
        if found is None:
            connection.execute(insert(StateRecord).values(key=SCHEMA, value=VERSION))


def _has_bytes(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _empty(name: str) -> RegistryError:
    return RegistryError(
        f"{name}: empty, and every member and expert with it; {RESTORE}, or set "
        "FEDMORE_DATABASE and server.database right; nothing was changed"
    )


def _version(connection: Connection) -> object:
    if not inspect(connection).has_table(StateRecord.__tablename__):
        return None
    return connection.scalar(select(StateRecord.value).where(StateRecord.key == SCHEMA))


def _prepare_frozen(connection: Any, _record: object) -> None:
    """Set up a connection: explicit transactions, and the function for the sums."""
    connection.isolation_level = None
    checksums.register(connection)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Disable the driver's own transactions, which would begin too late."""
    _prepare_frozen(connection, _record)
    for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _begin_shared(connection: Any) -> None:
    if connection.get_execution_options().get(WRITE, False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER})")


@contextmanager
def _explained(name: str, doing: str = "") -> Iterator[None]:
    """Turn errors of the database into `RegistryError` with advice.

    A `ValueError` comes from a value that cannot be read, so the value is damaged.
    """
    try:
        yield
    except (SQLAlchemyError, ValueError) as error:
        raise RegistryError(f"{name}: {doing}{cause(error)}; {RESTORE}") from error


def cause(error: Exception) -> str:
    """The database's own message, without SQLAlchemy's link and statement."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
