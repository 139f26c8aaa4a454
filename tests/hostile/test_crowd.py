"""Whoever opens more than it needs is told so, and nobody else is held up."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedmore.client.transport.credentials import invite_keys
from fedmore.coordinator.pki.certificates import Role, make_pair
from fedmore.coordinator.pki.tls_files import OPERATOR
from fedmore.coordinator.rpc.limits import call_interceptor, call_limits
from fedmore.coordinator.rpc.limits.call_limits import ALLOWANCES, Standing
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationStub
from fedmore.protos.wire.blobs import digest_of


@pytest.fixture
def allow(monkeypatch):
    """Call it with a standing and what it is to be allowed."""

    def change(standing, **limits):
        monkeypatch.setitem(ALLOWANCES, standing, replace(ALLOWANCES[standing], **limits))

    return change


@pytest.fixture
def opened(federation):
    """How many calls are open."""
    callers = federation.server._parts.crowd._callers
    return lambda: sum(len(caller.calls) for caller in list(callers.values()))


def channel_of(federation, keys):
    credentials = grpc.ssl_channel_credentials(*(text.encode() for text in keys))
    return grpc.secure_channel(f"127.0.0.1:{federation.server.port}", credentials)


@pytest.fixture
def stranger(federation):
    """Call it with the name of somebody invited: a stub with that invite's certificate."""
    channels = []

    def make(name):
        keys = invite_keys(federation.invite(name))
        channels.append(channel_of(federation, (keys.ca, keys.key, keys.certificate)))
        return channels[-1]

    yield make
    for channel in channels:
        channel.close()


@pytest.fixture
def silent_call():
    """Call it with a channel: a call that is opened and brings no request."""
    over = threading.Event()

    def nothing():
        over.wait(30)
        yield from ()

    def begin(channel, method="Describe"):
        return channel.stream_unary(f"/fedmore.v1.Federation/{method}").future(nothing())

    yield begin
    over.set()


@pytest.mark.parametrize(
    ("standing", "limits", "says"),
    [
        (Standing.MEMBER, {"calls": 3}, "3 of your calls are open"),
        (Standing.MEMBER, {"rate": 0.001, "burst": 3}, "more than 0.001 calls a second of yours"),
        (Standing.INVITE, {"calls": 3}, "3 of your calls are open"),
    ],
)
def test_a_certificate_has_so_many_calls_and_others_are_not_held_up(
    federation, peer, stranger, silent_call, allow, told, opened, standing, limits, says
):
    """Calls that bring no request count like all others."""
    bob, eve = peer("bob"), peer("eve")
    allow(standing, **limits)
    of_invite = standing is Standing.INVITE
    channel = stranger("mallory") if of_invite else eve.channel
    calls = [silent_call(channel) for _ in range(3)]
    federation.eventually(lambda: opened() == 3)
    again = silent_call(channel)
    assert says in again.exception(10).details()
    assert says in told("invite mallory" if of_invite else "eve", "Describe")
    assert bob.stub.Describe(pb.DescribeRequest(), timeout=10).name == "test"
    for call in calls:
        call.cancel()
    federation.eventually(lambda: opened() == 0)


def test_a_call_that_brings_no_request_ends(peer, silent_call, told, monkeypatch):
    monkeypatch.setattr(call_interceptor, "FIRST_S", 0.2)
    error = silent_call(peer("eve").channel).exception(10)
    assert "the call brought no request for 0.2 s" in error.details()
    assert "brought no request" in told("eve", "Describe")


def test_a_revoked_member_has_the_least(federation, peer, silent_call, opened):
    eve = peer("eve")
    federation.registry.revoke("eve", "lied")
    assert "revoked" in held_or_error(eve, pb.Blob(digest="0" * 64, size=1))
    calls = [silent_call(eve.channel, "Held") for _ in range(10)]
    federation.eventually(lambda: sum(call.done() for call in calls) == 6)
    assert opened() == ALLOWANCES[Standing.BARRED].calls
    assert "4 of your calls are open" in calls[-1].exception(10).details()


def test_health_and_operators_answer_when_all_other_slots_are_taken(
    federation, peer, silent_call, monkeypatch, told, opened
):
    monkeypatch.setattr(call_limits, "TOTAL", 2)
    expires = datetime.now(UTC) + timedelta(hours=1)
    pair = make_pair(federation.ca, Role.OPERATOR, OPERATOR, expires)
    eve, bob = peer("eve"), peer("bob")
    calls = [silent_call(eve.channel) for _ in range(2)]
    federation.eventually(lambda: opened() == 2)
    assert "2 calls open; come again" in held_or_error(bob, pb.Blob(digest="0" * 64, size=1))
    assert "2 calls open" in told("bob", "Held")
    keys = (federation.ca.certificate, pair.key, pair.certificate)
    with channel_of(federation, [each.decode() for each in keys]) as operator:
        assert FederationStub(operator).Describe(pb.DescribeRequest(), timeout=10).name == "test"
    check = health_pb2_grpc.HealthStub(bob.channel).Check
    assert check(health_pb2.HealthCheckRequest(), timeout=10).status
    for call in calls:
        call.cancel()


def test_one_connection_more_than_allowed_costs_the_oldest_idle_one(federation, peer, allow):
    allow(Standing.MEMBER, connections=3)
    peers = [peer("eve") for _ in range(5)]
    for each in peers:
        assert each.stub.Describe(pb.DescribeRequest(), timeout=10).name == "test"
    meter = federation.server._parts.traffic.meter
    federation.eventually(lambda: len(meter.discover()) <= 3)
    assert peers[0].stub.Describe(pb.DescribeRequest(), timeout=10, wait_for_ready=True).name


def test_a_connection_more_is_refused_where_all_are_in_use(
    federation, peer, silent_call, allow, told, opened
):
    allow(Standing.MEMBER, connections=2)
    peers = [peer("eve"), peer("eve")]
    calls = [silent_call(each.channel) for each in peers]
    federation.eventually(lambda: opened() == 2)
    third = peer("eve")
    blob = pb.Blob(digest="0" * 64, size=1)
    assert "2 connections of yours are open" in held_or_error(third, blob)
    assert "2 connections of yours are open" in told("eve", "Held")
    for call in calls:
        call.cancel()
    federation.eventually(lambda: held_or_error(third, blob) == "")


def test_one_invite_with_thousands_of_streams_does_not_hold_up_a_round(
    round_of, stranger, silent_call, update
):
    """The invite opens calls as fast as it can while the round goes on."""
    over = threading.Event()

    def flood(channel):
        while not over.is_set():
            calls = [silent_call(channel) for _ in range(100)]
            for call in calls:
                call.cancel()

    channels = [stranger("mallory") for _ in range(3)]
    threads = [threading.Thread(target=flood, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    try:
        round_of.eve.introduce()
        round_of.eve.reply(round_of.eve.task("train").task_id, update())
        assert set(round_of.end(60)["clients"]) == {"alice", "eve"}
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def held_or_error(member, blob):
    try:
        member.stub.Held(blob, timeout=10)
    except grpc.RpcError as error:
        return error.details()
    return ""


def test_a_member_has_so_many_downloads_open(federation, peer):
    """Of a blob that fills what a connection may hold unread."""
    data = bytes(32 << 20)
    eve = peer("eve")
    array = ArrayRecord({"w": Array("u1", (len(data),), "raw", data)})
    grid = federation.grid
    federation.queue.expect([eve.identity.node_id])
    grid.push_messages([Message(RecordDict({"a": array}), eve.identity.node_id, "train")])
    request = pb.DownloadRequest(digest=digest_of(data))
    calls = [eve.stub.Download(request) for _ in range(4)]
    for call in calls:
        next(call)
    with pytest.raises(grpc.RpcError) as raised:
        next(eve.stub.Download(request))
    assert "4 of your downloads are open" in raised.value.details()
    for call in calls:
        call.cancel()
    federation.eventually(lambda: not federation.server._parts.downloads._open)
