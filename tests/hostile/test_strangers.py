"""Connections on which nobody makes a call: so many, so long, one descriptor each, and no more."""

import asyncio
import logging
import socket
import ssl
from pathlib import Path

import pytest

from fedmore.coordinator.rpc import socket_bytes
from fedmore.coordinator.rpc.limits import connection_limits
from fedmore.coordinator.rpc.limits.call_limits import CallLimiter, Standing, Who
from fedmore.coordinator.rpc.limits.connection_limits import Doorkeeper, Limits
from fedmore.protos import federation_pb2 as pb

pytestmark = pytest.mark.skipif(
    not socket_bytes.supported(), reason="sockets are found on Linux only"
)


class Meter:
    """Connections that a test opens by name."""

    def __init__(self):
        self.alive, self.hung_up, self.descriptors = [], [], 10

    def discover(self):
        return set(self.alive)

    def hang_up(self, peer):
        self.hung_up.append(peer)
        self.alive.remove(peer)


class World:
    def __init__(self, **limits):
        self.now, self.meter, self.crowd = 0.0, Meter(), CallLimiter(lambda _: None)
        made = Limits(**{"each": 3, "total": 5, "grace_s": 3, "stranger_s": 20} | limits)
        self.door = Doorkeeper(self.meter, self.crowd, made, clock=lambda: self.now)

    def come(self, *peers):
        for peer in peers:
            self.now += 0.1
            self.meter.alive.append(peer)
            self.door.tend()

    async def call(self, *peers, over=False):
        """A member's calls, one on each connection."""
        for peer in peers:
            self.meter.alive.append(peer)
            call = self.crowd.enter(Who("key", Standing.MEMBER), peer, "/x/Connect")
            if over:
                self.crowd.leave(call)

    def later(self, seconds):
        self.now += seconds
        self.door.tend()
        return self.meter.hung_up


def test_a_stranger_has_some_seconds_to_make_a_call():
    world = World()
    world.come("a:1")
    assert world.later(19) == []
    assert world.later(1) == ["a:1"]


@pytest.mark.parametrize(
    ("peers", "gone"),
    [
        (["a:1", "a:2", "a:3", "b:1"], []),
        (["a:1", "a:2", "a:3", "a:4", "b:1"], ["a:1"]),
        (["a:1", "a:2", "b:1", "b:2", "c:1", "c:2"], ["a:1"]),
        (["a:1", "a:2", "a:3", "a:4", "b:1", "b:2", "b:3", "b:4"], ["a:1", "a:2", "b:1"]),
    ],
)
def test_of_too_many_the_oldest_go_after_some_seconds(peers, gone):
    """Three of one address, five in all; those that just came have their handshake to finish."""
    world = World()
    world.come(*peers)
    assert world.meter.hung_up == []
    assert sorted(world.later(4)) == gone


def test_who_has_made_a_call_is_no_stranger_whatever_its_number():
    world = World()
    asyncio.run(world.call(*(f"a:{number}" for number in range(9))))
    assert world.later(100) == []


def test_short_of_descriptors_strangers_go_first_and_then_the_idle(monkeypatch, caplog):
    monkeypatch.setattr(connection_limits, "limit_of_descriptors", lambda: 100)
    world = World()
    asyncio.run(world.call("k:1"))
    asyncio.run(world.call("k:2", over=True))
    world.come("a:1", "a:2")
    for missing, gone in ((1, ["a:1"]), (1, ["a:2"]), (5, ["k:2"]), (5, [])):
        world.meter.descriptors = 80 + missing
        world.meter.hung_up.clear()
        assert world.later(1) == gone
    world.meter.descriptors = 40
    world.later(1)
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.levelname for r in said] == ["ERROR", "WARNING"], (
        "said once, and once that it is over"
    )
    assert "81 of 100 descriptors are used" in said[0].getMessage()


@pytest.fixture
def silent():
    """Call it with a port: a connection that says nothing."""
    opened = []

    def connect(port):
        opened.append(socket.create_connection(("127.0.0.1", port)))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def test_silent_connections_cost_one_descriptor_each_and_are_hung_up(federation, peer, silent):
    door = federation.server._tender._doors
    before = len(list(Path("/proc/self/fd").iterdir()))
    strangers = [silent(federation.server.port) for _ in range(50)]
    meter = federation.server._parts.traffic.meter
    federation.eventually(lambda: len(meter.discover()) >= 50)
    federation.eventually(lambda: len(door._came) >= 50)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 2 * 50 + 5, (
        "both ends are in this process"
    )
    door._limits = Limits(each=10, total=10, grace_s=0.0, stranger_s=0.5)
    assert peer("bob").stub.Describe(pb.DescribeRequest(), timeout=10).name == "test"
    for each in strangers:
        each.settimeout(20)
        assert each.recv(100)[:0] == b""
    federation.eventually(lambda: len(meter.discover()) <= 1)


def test_a_handshake_that_is_begun_and_not_finished_is_hung_up_too(federation, silent):
    federation.server._tender._doors._limits = Limits(stranger_s=0.5)
    connection = silent(federation.server.port)
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    connection.sendall(outgoing.read())
    connection.settimeout(20)
    assert connection.recv(1), "the server's part of the handshake"
    while connection.recv(1 << 16):
        pass
