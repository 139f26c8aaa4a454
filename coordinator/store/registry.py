"""The registry of one federation: members, expert versions, rounds, events and state.

Every method is one transaction and may be called from any thread. After it returns, its changes are
on disk. The methods for members are in `members`.
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, delete, select
from sqlalchemy.orm import Session

from fedmore.coordinator.store import models
from fedmore.coordinator.store.blobs import is_digest
from fedmore.coordinator.store.database import Database
from fedmore.coordinator.store.members import Roster
from fedmore.coordinator.store.models import now, upsert
from fedmore.coordinator.store.records import (
    EventRow,
    ExpertRow,
    Kind,
    Member,
    RoundRow,
    Row,
    copied,
)
from fedmore.experts.errors import RegistryError
from fedmore.experts.names import there_are

__all__ = ["EventRow", "ExpertRow", "Kind", "Member", "Registry", "RoundRow"]

FILE = "registry.db"


class Registry(Roster):
    """The registry in the database at an SQLAlchemy URL; the options are those of `Database`."""

    def __init__(self, url: str | URL, *, make: bool = True, frozen: bool = False) -> None:
        self.database = Database(url, make=make, frozen=frozen)

    @classmethod
    def open(
        cls, directory: Path, url: str = "", *, make: bool = True, frozen: bool = False
    ) -> "Registry":
        """Open the registry of the federation in `directory`, or at `url` if it is given."""
        here = URL.create("sqlite", database=str(directory.resolve() / FILE))
        return cls(url or here, make=make, frozen=frozen and not url)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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
        """Store the newest version of an expert; one with equal name, stage and round is replaced.

        Args:
            name: the expert.
            kind: expert or adapter.
            target: its domain or language.
            rank: highest rank of its factors.
            params: number of its parameters.
            stage: index of the stage.
            round: number of the round.
            digest: digest of the blob with its factors.
            metrics: metrics of the round.

        """
        with self._session(write=True) as session:
            table = models.ExpertRecord
            before = (table.name == name, table.stage == stage, table.round == round)
            session.execute(delete(table).where(*before))
            row = table(
                name=name, kind=kind, target=target, rank=rank, params=params, stage=stage,
                round=round, digest=digest, metrics=metrics or {}, created_at=now(),
            )  # fmt: skip
            session.add(row)
            session.flush()
            return copied(row, ExpertRow)

    def experts(self) -> list[ExpertRow]:
        """All versions, oldest first."""
        return self._list(models.ExpertRecord, ExpertRow)

    def drop_versions(self, ids: Collection[int]) -> None:
        """Delete the versions with these ids."""
        with self._session(write=True) as session:
            session.execute(delete(models.ExpertRecord).where(models.ExpertRecord.id.in_(ids)))

    def latest(self, name: str) -> ExpertRow:
        """The newest version of `name`; raises `RegistryError`, which lists the known experts."""
        versions = self.experts()
        found = [e for e in versions if e.name == name]
        if not found:
            known = there_are((e.name for e in versions), "coordinator experts DIR")
            raise RegistryError(f"no expert named {name!r}; {known}")
        return found[-1]

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
        """Store a finished round; one with equal stage and round is replaced."""
        with self._session(write=True) as session:
            row = upsert(session, models.RoundRecord, stage=stage, round=round)
            row.kind, row.metrics = kind, metrics
            row.finished_at = finished_at or now()
            row.started_at = started_at or row.finished_at
            session.flush()
            return copied(row, RoundRow)

    def rounds(self) -> list[RoundRow]:
        """All finished rounds, in order."""
        return sorted(self._list(models.RoundRecord, RoundRow), key=lambda r: (r.stage, r.round))

    def add_event(self, kind: str, name: str = "", payload: dict[str, Any] | None = None) -> None:
        """Store an event about `name`."""
        with self._session(write=True) as session:
            session.add(models.EventRecord(at=now(), kind=kind, name=name, payload=payload or {}))

    def events(self) -> list[EventRow]:
        """All events, oldest first."""
        return self._list(models.EventRecord, EventRow)

    def set_state(self, key: str, value: Any) -> None:
        """Store a JSON value under `key`."""
        with self._session(write=True) as session:
            session.merge(models.StateRecord(key=key, value=value))

    def get_state(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        with self._session() as session:
            row = session.get(models.StateRecord, key)
            return default if row is None else row.value

    def digests(self) -> set[str]:
        """Digests of the blobs that expert versions, rounds and states name."""
        with self._session() as session:
            found = {*session.scalars(select(models.ExpertRecord.digest))}
            values = [*session.scalars(select(models.RoundRecord.metrics))]
            values += session.scalars(select(models.ExpertRecord.metrics))
            values += session.scalars(select(models.StateRecord.value))
        return found | {text for text in _texts(values) if is_digest(text)}

    def digests_beside_versions(self) -> set[str]:
        """Digests that states name, and rounds beside the versions that they made."""
        with self._session() as session:
            values = [*session.scalars(select(models.StateRecord.value))]
            rounds = [*session.scalars(select(models.RoundRecord.metrics))]
        values += [{k: v for k, v in metrics.items() if k != "experts"} for metrics in rounds]
        return {text for text in _texts(values) if is_digest(text)}

    def _session(self, write: bool = False) -> AbstractContextManager[Session]:
        return self.database.session(write)

    def _list(self, table: Any, kind: type[Row]) -> list[Row]:
        with self._session() as session:
            return [copied(row, kind) for row in session.scalars(select(table).order_by(table.id))]


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
