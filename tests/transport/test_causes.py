"""Why no connection comes about: the true cause is said, and no later try is made for it."""

import datetime as dt
from collections.abc import Iterator
from concurrent import futures
from types import SimpleNamespace

import grpc
import pytest

from fedmore.client.transport.channel import Link
from fedmore.client.transport.credentials import Keys
from fedmore.coordinator.pki import certificates
from fedmore.coordinator.pki.certificates import KeyPair, Role, make_ca, make_pair
from fedmore.coordinator.pki.tls_files import Tls
from fedmore.experts.errors import PeerError, TransportError

HOUR = dt.timedelta(hours=1)


class Clock:
    """What `datetime` is in the module of certificates, some hours off."""

    def __init__(self, hours: float) -> None:
        self._hours = hours

    def now(self, zone: dt.tzinfo) -> dt.datetime:
        return dt.datetime.now(zone) + self._hours * HOUR


def server_pair(ca: KeyPair, hours: float, monkeypatch: pytest.MonkeyPatch) -> KeyPair:
    """A server's certificate of a machine whose clock is `hours` ahead of ours."""
    shifted = SimpleNamespace(datetime=Clock(hours), timedelta=dt.timedelta, UTC=dt.UTC)
    monkeypatch.setattr(certificates, "dt", shifted)
    made = certificates.make_server_certificate(ca, ["hub"])
    monkeypatch.undo()
    return made


@pytest.fixture
def servers() -> Iterator[list[grpc.Server]]:
    started: list[grpc.Server] = []
    yield started
    for server in started:
        server.stop(0)


def listen(servers: list[grpc.Server], ca: KeyPair, pair: KeyPair | None) -> int:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    if pair is None:
        port = server.add_insecure_port("0.0.0.0:0")
    else:
        chain = [(pair.key, pair.certificate)]
        credentials = grpc.ssl_server_credentials(chain, ca.certificate, require_client_auth=True)
        port = server.add_secure_port("0.0.0.0:0", credentials)
    server.start()
    servers.append(server)
    return port


CASES = {
    "clock behind": (5, "127.0.0.1", "here it is .* UTC, so the clock of this machine is behind"),
    "expired": (-24 * 1000, "127.0.0.1", "has expired: here it is .* UTC.*coordinator renew"),
    "host missing": (0, "127.0.0.2", "not made for that host.*--address HOST:PORT.*advertise"),
    "another's": (None, "127.0.0.1", "not this federation's.*ask for a new invite"),
    "no TLS": ("plain", "127.0.0.1", "answers without TLS: is the port right"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_said(
    case: str, authority: Tls, servers: list[grpc.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    hours, host, says = CASES[case]
    ca = make_ca("another") if hours is None else authority.ca
    pair = None if hours == "plain" else server_pair(ca, float(hours or 0), monkeypatch)
    port = listen(servers, ca, pair)
    own = make_pair(authority.ca, Role.INVITE, "amt", dt.datetime.now(dt.UTC) + HOUR)
    keys = Keys(authority.ca.certificate.decode(), own.certificate.decode(), own.key.decode())
    with Link(f"{host}:{port}", keys) as link, pytest.raises(PeerError, match=says) as caught:
        link.describe()
    assert str(caught.value).startswith(f"{host}:{port} ")
    assert ("new invite" in str(caught.value)) == (case == "another's")


def test_who_is_not_there_may_come_yet(authority: Tls) -> None:
    with Link("127.0.0.1:1", None) as link, pytest.raises(TransportError) as caught:
        link.describe()
    assert not isinstance(caught.value, PeerError)
