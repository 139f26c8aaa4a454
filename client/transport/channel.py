"""The client's end of the wire: one channel to the coordinator, and the calls on it.

Every failure leaves here as a class of `fedmore.experts.errors`: the coordinator's own, or
`TransportError` where a later try may work.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import grpc

from fedmore.client.transport.audited_stub import AuditedStub, Recorder, Sending, Unrecorded
from fedmore.client.transport.credentials import Keys
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.enrolment.invite import host_of, is_loopback
from fedmore.protos.federation_pb2_grpc import FederationStub
from fedmore.protos.wire.blobs import CHUNK, MAX_MESSAGE, split
from fedmore.protos.wire.payloads import Payload, size_of
from fedmore.protos.wire.status import from_rpc

CALL_TIMEOUT_S = 30.0
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # how long a connection may take to come about
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC pings from threads of its own, whatever the training does to ours; the coordinator takes
    # any byte for a sign of life. It waits long for the answer: the coordinator may be busy.
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),  # no limit: starved, we have nothing else to send
    # What may come before it is read; gRPC's own estimate grows with every delay of ours.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", MAX_MESSAGE),
    ("grpc.http2.max_frame_size", CHUNK),
    ("grpc.use_local_subchannel_pool", 1),  # one connection per link, also within one process
)
UNRECORDED = Unrecorded()


class Link:
    """A channel to `address`, as the owner of the certificate in `keys`.

    Without keys it is plain text, and the calls carry `secret`.
    """

    def __init__(
        self,
        address: str,
        keys: Keys | None,
        secret: str = "",
        audit: Recorder = UNRECORDED,
    ) -> None:
        self.address = address
        self._audit = audit
        self._channels: list[grpc.Channel] = []
        self._metadata = (("authorization", f"Bearer {secret}"),) if secret else ()
        self.use(keys)

    def use(self, keys: Keys | None) -> None:
        """Call with these keys from now on; calls that are open go on unchanged."""
        local = is_loopback(host_of(self.address))
        options = [*OPTIONS, ("grpc.enable_http_proxy", int(not local))]
        if keys is None:
            channel = grpc.insecure_channel(self.address, options)
        else:
            credentials = grpc.ssl_channel_credentials(
                keys.ca.encode(), keys.key.encode(), keys.certificate.encode()
            )
            channel = grpc.secure_channel(self.address, credentials, options)
        self._channels.append(channel)
        self._stub = AuditedStub(FederationStub(channel), self._audit)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every call and the connection."""
        for channel in self._channels:
            channel.close()

    def describe(self, timeout_s: float = CALL_TIMEOUT_S) -> FederationInfo:
        """What the federation is."""
        with self._failures():
            reply = self._stub.call("Describe", pb.DescribeRequest(), timeout=timeout_s)
        return FederationInfo.from_proto(reply)

    def enrol(self, request: pb.EnrolRequest) -> pb.EnrolReply:
        """Turn a token into membership; the same request again gives the same member."""
        with self._failures():
            reply: pb.EnrolReply = self._stub.call("Enrol", request, timeout=CALL_TIMEOUT_S)
        return reply

    def renew(self, signing_request: str) -> str:
        """A fresh certificate (PEM) for the key that this link calls with."""
        with self._failures():
            return str(self._call("Renew", pb.RenewRequest(identity=signing_request)).certificate)

    def withdraw(self, reason: str, token: str) -> None:
        """Take back what this member contributed; `token` is the second proof, of its invite."""
        with self._failures():
            self._call("Withdraw", pb.WithdrawRequest(reason=reason, token=token))

    def connect(self, events: Iterator[pb.ClientEvent]) -> "Call":
        """Open the stream of tasks and replies."""
        return Call(self._stub.connect(events, metadata=self._metadata), self._failures)

    def upload(self, digest: str, payload: Payload) -> None:
        """Send what the coordinator does not have of a blob yet."""
        blob = pb.Blob(digest=digest, size=size_of(payload))
        with self._failures():
            held = self._call("Held", blob)
            if held.complete:
                return
            parts = _parts(blob, payload, min(held.offset, blob.size))
            sending = self._stub.upload(parts, digest, metadata=self._metadata)
        with self._failures(sending):
            sending.call.result()

    def download(self, digest: str, offset: int) -> Iterator[bytes]:
        """The pieces of a blob from `offset` on; unchecked."""
        request = pb.DownloadRequest(digest=digest, offset=offset)
        with self._failures():
            call = self._stub.call("Download", request, metadata=self._metadata)
            try:
                for chunk in call:
                    yield chunk.data
            finally:
                call.cancel()

    def _call(self, name: str, request: Any) -> Any:
        return self._stub.call(name, request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)

    @contextmanager
    def _failures(self, sending: Sending | None = None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            if sending is not None:
                sending.check()
            raise from_rpc(error, self.address) from error


class Call:
    """An open stream: iterate over what the coordinator says."""

    def __init__(self, sending: Sending, failures: Callable[[Sending], Any]) -> None:
        self._sending = sending
        self._failures = failures
        self._ended = threading.Event()
        if not sending.call.add_callback(self._ended.set):
            self._ended.set()

    def __iter__(self) -> Iterator[pb.ServerEvent]:
        with self._failures(self._sending):
            yield from self._sending.call
        self._sending.check()

    def end(self, timeout: float) -> None:
        """Give the other end `timeout` seconds to hang up, then do it."""
        self._ended.wait(timeout)
        self._sending.call.cancel()


def _parts(blob: pb.Blob, payload: Payload, offset: int) -> Iterator[pb.UploadRequest]:
    yield pb.UploadRequest(start=pb.UploadStart(blob=blob, offset=offset))
    for chunk in split(payload, offset):
        yield pb.UploadRequest(chunk=chunk)
