"""Identifies callers by their certificate or, without TLS, by their secret.

Every call is looked up in the registry, so a revoked member is refused from its next call on.
"""

import asyncio
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import grpc

from fedmore.coordinator.folder.operator_access import listed
from fedmore.coordinator.pki.certificates import Role, Subject, subject_of
from fedmore.coordinator.rpc.limits.call_limits import CallLimiter, Standing, Who
from fedmore.coordinator.rpc.traffic import TrafficBook
from fedmore.coordinator.store.enrolment_tokens import check_not_barred, secret_hash
from fedmore.experts.errors import FedmoreError, MembershipError, TokenError
from fedmore.protos.system.terminal import plain

if TYPE_CHECKING:
    from fedmore.coordinator.store.records import Member
    from fedmore.coordinator.store.registry import Registry

Context = grpc.aio.ServicerContext[Any, Any]
STANDINGS = {
    Role.CLIENT: Standing.MEMBER,
    Role.INVITE: Standing.INVITE,
    Role.OPERATOR: Standing.OPERATOR,
}


class Authenticator:
    """Admits callers by role. With `insecure` there is no TLS, and so no certificate."""

    def __init__(
        self, registry: "Registry", traffic: TrafficBook, crowd: CallLimiter, *, insecure: bool
    ) -> None:
        self._registry = registry
        self._traffic = traffic
        self._crowd = crowd
        self._insecure = insecure

    def who(self, context: Context) -> Who:
        """The caller whose share of the server a call uses; it never refuses a call."""
        try:
            if self._insecure:
                return Who(secret_of(context), Standing.MEMBER)
            subject = _subject(context)
        except FedmoreError:
            return Who(context.peer().rpartition(":")[0], Standing.INVITE)
        return Who(subject.identity, STANDINGS.get(subject.role, Standing.INVITE))

    async def anybody(self, context: Context) -> None:
        """Admit an invited client, an operator, or a member, also a withdrawn one."""
        if not self._insecure:
            subject = caller(context)
            if subject.role is Role.INVITE:
                self._traffic.invited(context.peer(), subject.name)
            if subject.role is Role.CLIENT:
                member = await asyncio.to_thread(self._registry.authenticate, subject.identity)
                self._traffic.identify(context.peer(), member.name)
                if member.revoked_at is not None:
                    check_not_barred(member)

    def invited(self, context: Context, name: str) -> str:
        """Return the identity of the key in `name`'s invite; empty without TLS."""
        if self._insecure:
            return ""
        subject = caller(context)
        if subject.role is not Role.INVITE or subject.name != name:
            raise MembershipError(
                f"the certificate of the {subject.role} {subject.name!r} does not let {name!r} in; "
                "enrol with the certificate of its own invite"
            )
        return subject.identity

    async def member(self, context: Context) -> "Member":
        """Return the calling member.

        Raises `TokenError` or `MembershipError` for any other caller.
        """
        identity = secret_of(context) if self._insecure else _client(context).identity
        member = await asyncio.to_thread(self._registry.authenticate, identity)
        self._traffic.identify(context.peer(), member.name)
        if member.barred:
            self._crowd.bar(identity)
        check_not_barred(member)
        self._crowd.belongs(context, member.node_id)
        return member

    async def name_of(self, context: Context) -> str:
        """The caller's name for the log: member, certificate's subject or address."""
        try:
            if self._insecure:
                found = await asyncio.to_thread(self._registry.authenticate, secret_of(context))
                return found.name
            subject = _subject(context)
        except FedmoreError:
            return context.peer().rpartition(":")[0]
        name = plain(subject.name, 64)
        return name if subject.role is Role.CLIENT else f"{subject.role} {name}"

    async def operator(self, context: Context) -> str:
        """Return the name of the calling operator: the folder's own, or one with an access file."""
        if self._insecure:
            raise MembershipError("without TLS nobody can prove to be an operator")
        subject = caller(context)
        if subject.role is Role.OPERATOR:
            known = (await asyncio.to_thread(listed, self._registry)).get(subject.name)
            if known is not None and known.identity == subject.identity:
                return subject.name
        raise MembershipError(
            f"{subject.role} {subject.name!r} may not call this: it needs an operator's "
            "certificate that is still good; see `coordinator operator --help`"
        )


def caller(context: Context) -> Subject:
    """The subject of the connection's certificate; TLS refuses those of other authorities."""
    subject = _subject(context)
    if subject.expires <= datetime.now(UTC):
        raise TokenError(
            f"the certificate of {subject.name!r} expired {subject.expires:%Y-%m-%d %H:%M} UTC"
        )
    return subject


def _subject(context: Context) -> Subject:
    certificate = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    if certificate is None:
        raise TokenError("the call carries no certificate; join with an invite first")
    return _known(certificate)


@lru_cache(4_096)  # every call needs it twice
def _known(certificate: bytes) -> Subject:
    return subject_of(certificate)


def _client(context: Context) -> Subject:
    subject = caller(context)
    if subject.role is not Role.CLIENT:
        raise MembershipError(
            f"the certificate of the {subject.role} {subject.name!r} is not a member's; enrol first"
        )
    return subject


def secret_of(context: Context) -> str:
    """The identity of the call's secret."""
    metadata = dict(context.invocation_metadata() or ())
    scheme, _, secret = str(metadata.get("authorization", "")).partition(" ")
    if scheme != "Bearer" or not secret:
        raise TokenError("the call carries no secret; join with an invite first")
    return secret_hash(secret)
