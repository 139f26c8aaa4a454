"""The registry: members, expert versions, rounds, events and state of one federation.

Tokens and credentials are random and only their SHA-256 is stored. Every method is one
transaction and may be called from any thread; what has returned is on disk.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from fedmore.coordinator import tables
from fedmore.coordinator.rows import (
    EventRow,
    ExpertRow,
    Kind,
    Member,
    RoundRow,
    Row,
    copied,
)
from fedmore.coordinator.tables import WRITE, cause, now, open_engine, upsert
from fedmore.coordinator.tokens import check_name, secret_hash, usable
from fedmore.experts.errors import NameTakenError, RegistryError, TokenError

__all__ = ["EventRow", "ExpertRow", "Kind", "Member", "Registry", "RoundRow"]

FILE = "registry.db"


class Registry:
    """Opens (and where needed makes) the database at an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._engine = open_engine(url)
        except SQLAlchemyError as error:
            raise RegistryError(f"{url}: cannot be opened: {cause(error)}") from error
        writer = self._engine.execution_options(**{WRITE: True})
        self._reading = sessionmaker(self._engine)
        self._writing = sessionmaker(writer)

    @classmethod
    def open(cls, directory: Path) -> "Registry":
        """The registry of the federation in `directory`."""
        return cls(f"sqlite:///{directory.resolve() / FILE}")

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def invite(self, name: str, expires_s: float = 86_400.0) -> str:
        """A fresh one-time token for `name`; replaces the token of an invite nobody has used."""
        check_name(name)
        token = secrets.token_urlsafe(32)
        with self._session(write=True) as session:
            row = session.get(tables.MemberRecord, name)
            if row is None:
                row = tables.MemberRecord(name=name, node_id=1 + secrets.randbits(62))
                session.add(row)
            elif row.joined_at is not None:
                raise NameTakenError(f"{name!r} has already joined; invite under another name")
            row.token_hash = secret_hash(token)
            row.token_expires = now() + timedelta(seconds=expires_s)
        return token

    def enrol(
        self, token: str, name: str, kind: Kind, target: str, rank: int
    ) -> tuple[Member, str]:
        """Use up `token`: the member, and the credential with which it comes back."""
        credential = secrets.token_urlsafe(32)
        with self._session(write=True) as session:
            row = usable(session, token, name)
            row.kind, row.target, row.rank = kind, target, rank
            row.joined_at = row.last_seen = now()
            row.credential_hash = secret_hash(credential)
            return copied(row, Member), credential

    def authenticate(self, credential: str) -> Member:
        """Whose `credential` this is; raises `TokenError` when it is nobody's."""
        query = select(tables.MemberRecord).filter_by(credential_hash=secret_hash(credential))
        with self._session() as session:
            row = session.scalar(query)
            if row is None:
                raise TokenError("credential not known here; ask the operator for a new invite")
            return copied(row, Member)

    def members(self) -> list[Member]:
        """Everybody who has joined, in order of name."""
        return [m for m in self._all_members() if m.joined_at is not None]

    def invited(self) -> list[Member]:
        """Everybody whose invite has not been used, in order of name."""
        return [m for m in self._all_members() if m.joined_at is None]

    def member(self, node_id: int) -> Member:
        """The member behind a Flower node id."""
        query = select(tables.MemberRecord).filter_by(node_id=node_id)
        with self._session() as session:
            row = session.scalar(query)
            if row is None:
                raise RegistryError(f"no member has node id {node_id}")
            return copied(row, Member)

    def touch(self, name: str) -> None:
        """`name` was seen just now."""
        with self._row(name) as row:
            row.last_seen = now()

    def add_traffic(self, name: str, up: int, down: int) -> None:
        """Count bytes that came from (`up`) and went to (`down`) a member."""
        with self._row(name) as row:
            row.bytes_up += up
            row.bytes_down += down

    def add_tokens(self, name: str, count: int) -> None:
        """Count tokens that a member has trained on."""
        with self._row(name) as row:
            row.train_tokens += count

    def add_expert(
        self,
        *,
        name: str,
        kind: Kind,
        target: str,
        rank: int,
        params: int,
        stage: int,
        round: int,  # noqa: A002 - the word of the vocabulary
        digest: str,
        metrics: dict[str, Any] | None = None,
    ) -> ExpertRow:
        """Keep a version; the same name, stage and round again replaces it."""
        with self._session(write=True) as session:
            row = upsert(session, tables.ExpertRecord, name=name, stage=stage, round=round)
            row.kind, row.target, row.rank, row.params = kind, target, rank, params
            row.digest, row.metrics, row.created_at = digest, metrics or {}, now()
            session.flush()
            return copied(row, ExpertRow)

    def experts(self) -> list[ExpertRow]:
        """Every version, oldest first."""
        return self._list(tables.ExpertRecord, ExpertRow)

    def latest(self, name: str) -> ExpertRow:
        """The newest version of `name`; raises `RegistryError`, naming the known ones."""
        versions = self.experts()
        found = [e for e in versions if e.name == name]
        if not found:
            known = ", ".join(sorted({e.name for e in versions})) or "none yet"
            raise RegistryError(f"no expert named {name!r}; there are: {known}")
        return max(found, key=lambda e: (e.stage, e.round))

    def add_round(
        self,
        *,
        stage: int,
        kind: str,
        round: int,  # noqa: A002 - the word of the vocabulary
        metrics: dict[str, Any],
        started_at: datetime | None = None,
        finished_at: datetime | None = None,
    ) -> RoundRow:
        """Keep a finished round; the same stage and round again replaces it."""
        with self._session(write=True) as session:
            row = upsert(session, tables.RoundRecord, stage=stage, round=round)
            row.kind, row.metrics = kind, metrics
            row.finished_at = finished_at or now()
            row.started_at = started_at or row.finished_at
            session.flush()
            return copied(row, RoundRow)

    def rounds(self) -> list[RoundRow]:
        """Every finished round, in order."""
        return sorted(self._list(tables.RoundRecord, RoundRow), key=lambda r: (r.stage, r.round))

    def add_event(self, kind: str, name: str = "", payload: dict[str, Any] | None = None) -> None:
        """Write down that something happened (to `name`)."""
        with self._session(write=True) as session:
            session.add(tables.EventRecord(at=now(), kind=kind, name=name, payload=payload or {}))

    def events(self) -> list[EventRow]:
        """Everything that happened, oldest first."""
        return self._list(tables.EventRecord, EventRow)

    def set_state(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key`."""
        with self._session(write=True) as session:
            session.merge(tables.StateRecord(key=key, value=value))

    def get_state(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        with self._session() as session:
            row = session.get(tables.StateRecord, key)
            return default if row is None else row.value

    @contextmanager
    def _session(self, write: bool = False) -> Iterator[Session]:
        """One transaction; what the database objects to becomes a `RegistryError`."""
        try:
            with (self._writing if write else self._reading).begin() as session:
                yield session
        except SQLAlchemyError as error:
            raise RegistryError(f"{self.url}: {cause(error)}") from error

    @contextmanager
    def _row(self, name: str) -> Iterator[tables.MemberRecord]:
        with self._session(write=True) as session:
            row = session.get(tables.MemberRecord, name)
            if row is None:
                raise RegistryError(f"no member is named {name!r}")
            yield row

    def _all_members(self) -> list[Member]:
        with self._session() as session:
            rows = session.scalars(select(tables.MemberRecord).order_by(tables.MemberRecord.name))
            return [copied(row, Member) for row in rows]

    def _list(self, table: Any, kind: type[Row]) -> list[Row]:
        with self._session() as session:
            return [copied(row, kind) for row in session.scalars(select(table).order_by(table.id))]
