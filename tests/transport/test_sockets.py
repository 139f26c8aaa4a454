import contextlib
import os
import random
import resource
import socket
from pathlib import Path

import pytest

from fedmore.client.identity.enrolment import describe, enrol
from fedmore.coordinator.rpc import socket_bytes
from fedmore.coordinator.rpc.socket_bytes import SocketMeter, TrafficCounter, parse_peer
from fedmore.experts.errors import TransportError
from fedmore.protos.wire.blobs import digest_of
from fedmore.strategies.events import Traffic

pytestmark = pytest.mark.skipif(not socket_bytes.supported(), reason="counts exist on Linux only")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def meter(listener):
    return SocketMeter(listener.getsockname()[1])


def pair(listener):
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    return near, far, "{}:{}".format(*near.getsockname())


def receive(connection, count):
    data = b""
    while len(data) < count:
        data += connection.recv(count - len(data))


def test_counts_are_the_kernels(listener, meter):
    near, far, peer = pair(listener)
    with near, far:
        near.sendall(b"x" * 1000)
        receive(far, 1000)
        far.sendall(b"y" * 300)
        receive(near, 300)
        assert meter.sample() == {peer: (1000, 300)}


def test_no_descriptor_is_duplicated(listener, meter):
    with contextlib.ExitStack() as open_:
        pairs = [pair(listener) for _ in range(20)]
        for near, far, _ in pairs:
            open_.enter_context(near)
            open_.enter_context(far)
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert meter.discover() == {peer for *_, peer in pairs}
        assert len(meter.sample()) == 20
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_connection_that_is_gone_has_no_count_and_another_in_its_place_its_own(listener, meter):
    near, far, peer = pair(listener)
    with near:
        near.sendall(b"x" * 500)
        receive(far, 500)
        assert meter.read(peer) == (500, 0)
        handle = far.fileno()
        far.close()
        assert meter.read(peer) is None
    near, far, other = pair(listener)
    with near, far:
        assert far.fileno() == handle, "the descriptor is used again"
        assert meter.sample() == {other: (0, 0)}


def test_it_hangs_up_both_ways(listener, meter):
    near, far, peer = pair(listener)
    with near, far:
        meter.discover()
        meter.hang_up(peer)
        assert near.recv(1) == b""
        assert far.recv(1) == b""
        meter.hang_up("127.0.0.1:1")


def test_without_a_descriptor_to_look_with_each_is_tried(listener, meter):
    near, far, peer = pair(listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with near, far, contextlib.ExitStack() as taken:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.enter_context(Path(os.devnull).open())
        with pytest.raises(OSError, match="Too many open files"):
            Path(os.devnull).read_bytes()
        assert meter.discover() == {peer}
        assert meter.descriptors <= 256


def test_connections_of_other_ports_are_not_ours(listener, meter):
    with socket.create_server(("127.0.0.1", 0)) as other:
        near, far, _ = pair(other)
        with near, far:
            assert meter.sample() == {}


def test_a_counter_goes_on_over_reconnects_and_names_what_came_before():
    counter = TrafficCounter()
    assert counter.update({"p:1": (100, 10)}) == {}
    counter.name("p:1", "ada")
    assert counter.update({"p:1": (150, 10)}) == {"ada": (150, 10)}
    assert counter.update({"p:1": (150, 10)}) == {}
    counter.name("p:2", "ada")
    counter.name("p:3", "bob")
    sample = {"p:1": (160, 10), "p:2": (5, 5), "p:3": (1, 1)}
    assert counter.update(sample) == {"ada": (15, 5), "bob": (1, 1)}
    assert counter.update({"p:2": (6, 5)}) == {"ada": (1, 0)}
    assert not counter.knows("p:1")
    assert counter.knows("p:2")


def test_a_port_that_is_used_again_starts_from_nothing():
    counter = TrafficCounter()
    counter.name("p:1", "ada")
    counter.update({"p:1": (100, 100)})
    assert counter.update({"p:1": (7, 3)}) == {"ada": (7, 3)}
    counter.name("p:1", "bob")
    assert counter.update({"p:1": (9, 3)}) == {"bob": (9, 3)}


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5", "127.0.0.1:5"),
        ("ipv6:%5B::1%5D:5", "::1:5"),
        ("ipv6:[::ffff:10.0.0.1]:5", "10.0.0.1:5"),
        ("unix:", "unix:"),
    ],
)
def test_grpcs_peers_are_understood(peer, address):
    assert parse_peer(peer) == address


def test_where_nobody_counts_it_says_so(monkeypatch):
    monkeypatch.setattr(socket_bytes, "supported", lambda: False)
    with pytest.raises(TransportError, match="Linux only"):
        SocketMeter(1)


@pytest.fixture
def carried(federation, monkeypatch):
    """What the kernel has counted of every connection, whose-ever it is."""
    found = {}
    meter = federation.server._parts.traffic.meter
    read = meter.read

    def remembered(peer):
        counts = read(peer)
        if counts is not None:
            found[peer] = counts
        return counts

    monkeypatch.setattr(meter, "read", remembered)
    return found


def test_what_an_enrolment_carries_counts_too(federation, carried):
    """A plan is looked at before anybody is a member, each time over a connection of its own."""
    ada, bob = federation.invite("ada"), federation.invite("bob")
    for _ in range(3):
        describe(ada)
    enrol(ada, federation.directory / "ada", kind="expert", target="legal", rank=4)
    federation.eventually(lambda: len(carried) == 4)
    hers = set(carried)
    describe(bob)  # and is never a member
    federation.eventually(lambda: len(carried) == 5)
    federation.server.finish()
    federation.server.stop()
    (member,) = federation.registry.members()
    assert member.bytes_up == sum(carried[peer][0] for peer in hers)
    assert member.bytes_down == sum(carried[peer][1] for peer in hers)
    assert sum(t.bytes_up for t in federation.of(Traffic)) == member.bytes_up


def test_an_upload_costs_its_payload_and_less_than_five_percent(federation):
    data = random.Random(1).randbytes(4_000_000)
    identity = federation.enrol("ada")
    federation.ask(identity.node_id)
    with identity.link() as link:
        link.upload(digest_of(data), data)
    federation.server.finish()
    federation.server.stop()
    member = federation.registry.members()[0]
    assert len(data) <= member.bytes_up < 1.05 * len(data)
    assert 0 < member.bytes_down < 20_000
    told = federation.of(Traffic)
    assert sum(t.bytes_up for t in told) == member.bytes_up
    assert sum(t.bytes_down for t in told) == member.bytes_down
