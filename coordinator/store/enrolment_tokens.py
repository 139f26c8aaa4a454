"""Checks whether one-time tokens and members are still valid."""

import hashlib

from sqlalchemy import select
from sqlalchemy.orm import Session

from fedmore.coordinator.store.models import MemberRecord, now
from fedmore.coordinator.store.records import Member, copied
from fedmore.experts.errors import MembershipError, TokenError


def secret_hash(secret: str) -> str:
    """Hash a token or secret for storage; they are random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def usable(session: Session, token: str, name: str) -> MemberRecord:
    """The member of a token, whether it has joined or not.

    Raises `TokenError` if the token is unknown or has expired unused, and `MembershipError` for a
    member that was revoked or has withdrawn.
    """
    query = select(MemberRecord).filter_by(token_hash=secret_hash(token)).with_for_update()
    row = session.scalar(query)
    if row is None or row.name != name:
        raise TokenError(f"the invite of {name!r} is not known here, or a newer one replaced it")
    check_not_barred(copied(row, Member))
    if row.joined_at is None and row.token_expires < now():
        raise TokenError(
            f"the invite of {name!r} expired at {row.token_expires:%Y-%m-%d %H:%M} UTC; "
            "ask the operator for a new one"
        )
    return row


def check_not_barred(member: Member) -> None:
    """Raise `MembershipError` for a revoked or withdrawn member."""
    if member.barred:
        raise MembershipError(f"{member.name!r} was {member.barred}")
