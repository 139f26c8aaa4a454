"""An operator's calls to a running coordinator."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedmore.coordinator.folder.operator_access import Access
from fedmore.coordinator.pki.certificates import subject_of
from fedmore.experts.errors import TokenError, TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.invite import host_of, is_loopback
from fedmore.protos.federation_pb2_grpc import OperatorStub
from fedmore.protos.wire.status import from_rpc

TIMEOUT_S = 15.0


class Remote:
    """A channel to the coordinator of `access`; it raises the coordinator's errors.

    Raises `TokenError` for an expired access, because TLS would only close the connection.
    """

    def __init__(self, access: Access) -> None:
        expires = subject_of(access.certificate.encode()).expires
        if expires <= datetime.now(UTC):
            raise TokenError(
                f"the certificate of the operator {access.operator!r} expired "
                f"{expires:%Y-%m-%d %H:%M} UTC; make another with `coordinator operator rotate`, "
                "or with `coordinator renew` for the folder's own"
            )
        self._address = access.address
        credentials = grpc.ssl_channel_credentials(
            access.ca.encode(), access.key.encode(), access.certificate.encode()
        )
        proxy = int(not is_loopback(host_of(access.address)))
        options = [("grpc.enable_http_proxy", proxy)]
        self._channel = grpc.secure_channel(access.address, credentials, options)
        self._stub: Any = OperatorStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def status(self) -> dict[str, Any]:
        """The coordinator's output of `coordinator status --json`."""
        with self._failures():
            reply = self._stub.Status(pb.StatusRequest(), timeout=TIMEOUT_S)
        found: dict[str, Any] = json.loads(reply.json)
        return found

    def invite(self, name: str, expires_s: float) -> str:
        """Return the text of an invite file for `name`."""
        with self._failures():
            request = pb.InviteRequest(name=name, expires_s=expires_s)
            return str(self._stub.Invite(request, timeout=TIMEOUT_S).json)

    def revoke(self, name: str, reason: str) -> None:
        """Exclude a member."""
        with self._failures():
            self._stub.Revoke(pb.RevokeRequest(name=name, reason=reason), timeout=TIMEOUT_S)

    def stop(self, reason: str) -> None:
        """Ask the coordinator to stop."""
        with self._failures():
            self._stub.Stop(pb.StopRequest(reason=reason), timeout=TIMEOUT_S)

    def check_health(self) -> None:
        """Raise `TransportError` unless the coordinator reports that it serves."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        with self._failures():
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise TransportError(f"{self._address} answers, but does not serve")

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc(error, self._address) from error
