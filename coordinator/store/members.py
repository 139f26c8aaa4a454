"""The members in the registry: invited, enrolled, revoked, withdrawn.

A token is random, and only its SHA-256 is stored. A member is identified by the SHA-256 of its
public key, so a new certificate for the same key changes nothing here.
"""

import secrets
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session

from fedmore.coordinator.store.enrolment_tokens import check_not_barred, secret_hash, usable
from fedmore.coordinator.store.models import EventRecord, MemberRecord, StateRecord, now
from fedmore.coordinator.store.records import Kind, Member, copied
from fedmore.coordinator.store.state_keys import RANKS
from fedmore.experts.errors import NameTakenError, RegistryError, TokenError
from fedmore.experts.names import check_name, there_are

LONGEST_REASON = 500
"""Most characters of a reason that are stored."""


class Roster:
    """The members; `Registry` provides the database."""

    @abstractmethod
    def _session(self, write: bool = False) -> AbstractContextManager[Session]:
        """Open a session whose changes are committed together."""

    def invite(self, name: str, expires_s: float = 86_400.0) -> str:
        """Make a one-time token for `name`, which replaces that of an unused invite."""
        check_name(name)
        token = secrets.token_urlsafe(32)
        with self._session(write=True) as session:
            row = session.get(MemberRecord, name)
            if row is None:
                row = MemberRecord(name=name, node_id=1 + secrets.randbits(62))
                session.add(row)
            elif row.joined_at is not None:
                raise NameTakenError(f"{name!r} has already joined; invite under another name")
            row.token_hash = secret_hash(token)
            row.token_expires = now() + timedelta(seconds=expires_s)
            row.revoked_at, row.revoked_reason = None, ""
        return token

    def invite_again(self, name: str, expires_s: float = 86_400.0) -> str:
        """Make a token for a member that needs a new certificate for its present key."""
        token = secrets.token_urlsafe(32)
        with self._row(name) as row:
            if row.joined_at is None:
                raise RegistryError(f"{name!r} has not joined yet; invite it as a new one")
            check_not_barred(copied(row, Member))
            row.token_hash = secret_hash(token)
            row.token_expires = now() + timedelta(seconds=expires_s)
        return token

    def enrol(
        self,
        token: str,
        name: str,
        kind: Kind,
        target: str,
        rank: int,
        identity: str | None = None,
        certificate_expires: datetime | None = None,
        ranks: str = "",
    ) -> Member:
        """Use up `token` and bind `identity` to `name`.

        The same call again returns the same member.

        Args:
            token: the one-time token.
            name: the client.
            kind: expert, adapter or app.
            target: domain or language.
            rank: rank of its change, 0 for an app.
            identity: SHA-256 of its key; None for a member in this process.
            certificate_expires: end of its certificate.
            ranks: the pattern of its ranks, empty if all are `rank`.

        """
        with self._session(write=True) as session:
            row = usable(session, token, name)
            wanted = (identity, kind, target, rank, ranks)
            if row.joined_at is None:
                _check_unknown(session, identity)
                row.identity, row.kind, row.target, row.rank = wanted[:4]
                row.joined_at = row.last_seen = now()
                _write_ranks(session, row, ranks)
            elif identity is None or wanted != _enrolled(row):
                raise TokenError(
                    f"the invite of {name!r} has been used: a client of that name has joined; "
                    "go on from its state folder, or ask for an invite under another name"
                )
            row.certificate_expires = certificate_expires
            return copied(row, Member)

    def check_token(self, token: str, name: str) -> None:
        """Raise `TokenError` or `MembershipError` unless `enrol` could use `token` for `name`."""
        with self._session() as session:
            usable(session, token, name)

    def check_second_proof(self, token: str, name: str) -> None:
        """Raise `TokenError` unless `token` is of the member's newest invite."""
        with self._session() as session:
            if _named(session, name).token_hash != secret_hash(token):
                raise TokenError(
                    "taking work back for good needs the invite that this client joined with, "
                    f"beside its key; else the operator runs `coordinator withdraw DIR {name}`"
                )

    def authenticate(self, identity: str) -> Member:
        """The member with this identity; raises `TokenError` if there is none."""
        query = select(MemberRecord).filter_by(identity=identity)
        with self._session() as session:
            row = session.scalar(query)
            if row is None:
                raise TokenError("you are not known here; ask the operator for a new invite")
            return copied(row, Member)

    def renewed(self, name: str, certificate_expires: datetime) -> None:
        """Record the end of the certificate of `name`."""
        with self._row(name) as row:
            row.certificate_expires = certificate_expires

    def revoke(self, name: str, reason: str = "") -> None:
        """Revoke `name`; the first time and reason are kept."""
        self._bar(name, "revoked", reason)

    def withdraw(
        self, name: str, reason: str = "", states: Mapping[str, Any] | None = None
    ) -> None:
        """Record the withdrawal of `name`; the first time and reason are kept.

        `states` are written in the same transaction.
        """
        self._bar(name, "withdrawn", reason, states or {})

    def withdrawn(self) -> set[str]:
        """Names of the withdrawn members."""
        return {m.name for m in self._barred() if m.withdrawn_at is not None}

    def barred(self) -> dict[int, str]:
        """The reasons of revoked and withdrawn members, by node id."""
        return {m.node_id: m.barred for m in self._barred()}

    def members(self) -> list[Member]:
        """All members that have joined, in order of name."""
        return [m for m in self._members() if m.joined_at is not None]

    def invited(self) -> list[Member]:
        """All members with an unused invite, in order of name."""
        return [m for m in self._members() if m.joined_at is None and m.revoked_at is None]

    def member(self, node_id: int) -> Member:
        """The member with a Flower node id; raises `RegistryError` if there is none."""
        query = select(MemberRecord).filter_by(node_id=node_id)
        with self._session() as session:
            row = session.scalar(query)
            if row is None:
                raise RegistryError(f"no member has node id {node_id}")
            return copied(row, Member)

    def name_of(self, node_id: int) -> str:
        """The name of the member with a node id, or the id itself if it is unknown."""
        query = select(MemberRecord.name).filter_by(node_id=node_id)
        with self._session() as session:
            return session.scalar(query) or f"node {node_id}"

    def account(self, traffic: Mapping[str, tuple[int, int]], seen: Collection[str]) -> None:
        """Add bytes (up, down) of members, and record members as seen now, in one transaction."""
        mine = update(MemberRecord).where(MemberRecord.name == bindparam("member"))
        more = {
            MemberRecord.bytes_up: MemberRecord.bytes_up + bindparam("up"),
            MemberRecord.bytes_down: MemberRecord.bytes_down + bindparam("down"),
        }
        moved = [{"member": n, "up": up, "down": down} for n, (up, down) in traffic.items()]
        with self._session(write=True) as session:
            execute = session.connection().execute
            if moved:
                execute(mine.values(more), moved)
            if seen:
                execute(mine.values(last_seen=now()), [{"member": name} for name in seen])

    def add_traffic(self, name: str, up: int, down: int) -> None:
        """Add bytes received from (`up`) and sent to (`down`) a member."""
        with self._row(name) as row:
            row.bytes_up += up
            row.bytes_down += down

    def add_tokens(self, name: str, count: int) -> None:
        """Add tokens on which a member has trained."""
        with self._row(name) as row:
            row.train_tokens += count

    def _bar(
        self, name: str, how: str, reason: str, states: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        with self._session(write=True) as session:
            row = _named(session, name)
            for key, value in states.items():
                session.merge(StateRecord(key=key, value=value))
            if getattr(row, f"{how}_at") is None:
                setattr(row, f"{how}_at", now())
                setattr(row, f"{how}_reason", reason[:LONGEST_REASON])
                event = {"reason": reason[:LONGEST_REASON]}
                session.add(EventRecord(at=now(), kind=how, name=name, payload=event))

    @contextmanager
    def _row(self, name: str) -> Iterator[MemberRecord]:
        with self._session(write=True) as session:
            yield _named(session, name)

    def _members(self) -> list[Member]:
        with self._session() as session:
            rows = session.scalars(select(MemberRecord).order_by(MemberRecord.name))
            return [copied(row, Member) for row in rows]

    def _barred(self) -> list[Member]:
        out = or_(MemberRecord.revoked_at.is_not(None), MemberRecord.withdrawn_at.is_not(None))
        with self._session() as session:
            return [copied(row, Member) for row in session.scalars(select(MemberRecord).where(out))]


def _named(session: Session, name: str) -> MemberRecord:
    row = session.get(MemberRecord, name, with_for_update=True)
    if row is None:
        known = there_are(session.scalars(select(MemberRecord.name)), "coordinator status DIR")
        raise RegistryError(f"no member is named {name!r}; {known}")
    return row


def _enrolled(row: MemberRecord) -> tuple[object, ...]:
    return row.identity, row.kind, row.target, row.rank, row.ranks


def _write_ranks(session: Session, row: MemberRecord, ranks: str) -> None:
    """Write the pattern of a member's ranks, if it has one, and read it back with the row."""
    if ranks:
        session.add(StateRecord(key=RANKS + row.name, value=ranks))
        session.flush()
        session.refresh(row)


def _check_unknown(session: Session, identity: str | None) -> None:
    query = select(MemberRecord).filter_by(identity=identity)
    if identity is not None and session.scalar(query) is not None:
        raise TokenError(
            "this key is another member's; keep it, and join with a folder of your own (--state)"
        )
