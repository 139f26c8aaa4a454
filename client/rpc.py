"""The client's end of the wire: one channel to the coordinator, and the calls on it.

Every failure leaves here as a class of `fedmore.experts.errors`: the coordinator's own, or
`TransportError` where a later try may work.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import grpc

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import MAX_MESSAGE, digest_of, split
from fedmore.protos.federation_pb2_grpc import FederationStub
from fedmore.protos.info import FederationInfo
from fedmore.protos.status import from_rpc

CALL_TIMEOUT_S = 30.0
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),  # one connection per link, also within one process
)
_LOOPBACK = ("127.", "localhost", "[::1]")


class Link:
    """A channel to `address`, calling as the owner of `credential`.

    It trusts the certificate authority `ca` (PEM) and no other; None is plain text.
    """

    def __init__(self, address: str, ca: str | None, credential: str = "") -> None:
        self.address = address
        options = [*OPTIONS, ("grpc.enable_http_proxy", int(not address.startswith(_LOOPBACK)))]
        if ca is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            trust = grpc.ssl_channel_credentials(root_certificates=ca.encode())
            self._channel = grpc.secure_channel(address, trust, options)
        self._stub: Any = FederationStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = (("authorization", f"Bearer {credential}"),) if credential else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every call and the connection."""
        self._channel.close()

    def describe(self) -> FederationInfo:
        """What the federation is."""
        with self._failures():
            reply = self._stub.Describe(pb.DescribeRequest(), timeout=CALL_TIMEOUT_S)
        return FederationInfo.from_proto(reply)

    def enrol(
        self, token: str, name: str, kind: str, target: str, rank: int, fingerprint: str
    ) -> pb.EnrolReply:
        """Turn a token into a credential."""
        request = pb.EnrolRequest(
            token=token, name=name, kind=kind, target=target, rank=rank, fingerprint=fingerprint
        )
        with self._failures():
            reply: pb.EnrolReply = self._stub.Enrol(request, timeout=CALL_TIMEOUT_S)
        return reply

    def connect(self, events: Iterator[pb.ClientEvent]) -> "Call":
        """Open the stream."""
        return Call(self._stub.Connect(events, metadata=self._metadata), self._failures)

    def upload(self, digest: str, data: bytes) -> None:
        """Send what the coordinator does not have of a blob yet."""
        blob = pb.Blob(digest=digest, size=len(data))
        with self._failures():
            held = self._stub.Held(blob, metadata=self._metadata, timeout=CALL_TIMEOUT_S)
            if not held.complete:
                offset = min(held.offset, len(data))
                self._stub.Upload(_parts(blob, data, offset), metadata=self._metadata)

    def download(self, digest: str, size: int, received: bytearray) -> bytes:
        """Fetch a blob. `received` keeps what came before a failure: give it to the next try."""
        request = pb.DownloadRequest(digest=digest, offset=len(received))
        with self._failures():
            for chunk in self._stub.Download(request, metadata=self._metadata):
                received += chunk.data
                if len(received) > size:
                    break
        data = bytes(received)
        if len(data) != size or digest_of(data) != digest:
            raise WireError(f"the blob {digest[:12]}… did not come as announced")
        return data

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from error


class Call:
    """An open stream: iterate over what the coordinator says."""

    def __init__(self, call: Any, failures: Callable[[], Any]) -> None:
        self._call = call
        self._failures = failures
        self._ended = threading.Event()
        if not call.add_callback(self._ended.set):
            self._ended.set()

    def __iter__(self) -> Iterator[pb.ServerEvent]:
        with self._failures():
            yield from self._call

    def end(self, timeout: float) -> None:
        """Give the other end `timeout` seconds to hang up, then do it."""
        self._ended.wait(timeout)
        self._call.cancel()


def _parts(blob: pb.Blob, data: bytes, offset: int) -> Iterator[pb.UploadRequest]:
    yield pb.UploadRequest(start=pb.UploadStart(blob=blob, offset=offset))
    for chunk in split(data, offset):
        yield pb.UploadRequest(chunk=chunk)
