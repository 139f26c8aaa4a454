"""Enrols members and renews their certificates."""

import re
from typing import TYPE_CHECKING

from fedmore.coordinator.pki.certificates import KeyPair, identity_of, requested_key, sign_client
from fedmore.coordinator.rpc.admission import check_enrolment, check_unmixed
from fedmore.experts.errors import ConfigError, TokenError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo

if TYPE_CHECKING:
    from datetime import datetime

    from fedmore.coordinator.config.schema import FederationConfig
    from fedmore.coordinator.store.records import Member
    from fedmore.coordinator.store.registry import Registry

_SHA256 = re.compile(r"[0-9a-f]{64}")


class EnrolmentService:
    """Enrols members.

    It blocks, so call it in a thread. Without an authority `ca` there is no TLS.
    """

    def __init__(
        self,
        registry: "Registry",
        config: "FederationConfig",
        info: FederationInfo,
        ca: KeyPair | None,
    ) -> None:
        self._registry = registry
        self._config = config
        self._info = info
        self._ca = ca

    def enrol(self, request: pb.EnrolRequest, invite: str) -> tuple["Member", pb.EnrolReply]:
        """Enrol with a one-time token; `invite` is the identity of the invite's key."""
        kind = check_enrolment(request, self._config, self._info)
        check_unmixed(kind, request.target, self._registry.members())
        self._registry.check_token(request.token, request.name)  # before anything is signed
        certificate, identity, expires = self._certify(request.identity, request.name)
        if identity == invite:  # the operator knows that key
            raise TokenError("make a key of your own; the invite's is not only yours")
        member = self._registry.enrol(
            request.token,
            request.name,
            kind,
            request.target,
            request.rank,
            identity,
            expires,
            request.ranks,
        )
        reply = pb.EnrolReply(
            node_id=member.node_id, federation=self._info.to_proto(), certificate=certificate
        )
        return member, reply

    def renew(self, member: "Member", identity: str, request: pb.RenewRequest) -> pb.RenewReply:
        """Make a new certificate for the key with which `member` calls."""
        if self._ca is None:
            raise ConfigError("without TLS there is no certificate to renew")
        if identity_of(requested_key(request.identity)) != identity:
            raise WireError("a certificate is renewed for the key that it was made for")
        certificate, subject = sign_client(self._ca, request.identity, member.name)
        self._registry.renewed(member.name, subject.expires)
        return pb.RenewReply(certificate=certificate)

    def _certify(self, request: str, name: str) -> "tuple[str, str, datetime | None]":
        if self._ca is not None:
            certificate, subject = sign_client(self._ca, request, name)
            return certificate, subject.identity, subject.expires
        if not _SHA256.fullmatch(request):
            raise WireError("without TLS an identity is the SHA-256 of a secret, in hex")
        return "", request, None
