"""A member that opens more than it needs: it is told so, and nobody else is held up."""

import threading

import grpc
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmore.coordinator.rpc import crowd
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import digest_of


@pytest.fixture
def entered(monkeypatch):
    """A list that grows with every call that was let in."""
    found, enter = [], crowd.Crowd.enter

    def counted(self, node_id, context):
        enter(self, node_id, context)
        found.append(node_id)

    monkeypatch.setattr(crowd.Crowd, "enter", counted)
    return found


def test_a_member_has_so_many_calls_open_and_others_are_not_held_up(
    federation, peer, monkeypatch, entered
):
    monkeypatch.setattr(crowd, "CALLS", 3)
    release = threading.Event()

    def silent():
        release.wait(20)
        yield pb.UploadRequest()

    eve = peer("eve")
    calls = [eve.stub.Upload.future(silent()) for _ in range(3)]
    federation.eventually(lambda: len(entered) == 3)
    blob = pb.Blob(digest="0" * 64, size=1)
    federation.eventually(lambda: "calls are open" in held_or_error(eve, blob))
    assert "calls are open" not in held_or_error(peer("bob"), blob)
    release.set()
    assert all(call.exception(20) for call in calls)
    federation.eventually(lambda: held_or_error(eve, blob) == "")


def test_a_member_has_so_many_connections(federation, peer, monkeypatch, told, entered):
    monkeypatch.setattr(crowd, "CONNECTIONS", 2)
    release = threading.Event()

    def silent():
        release.wait(20)
        yield pb.UploadRequest()

    blob = pb.Blob(digest="0" * 64, size=1)
    peers = [peer("eve"), peer("eve")]
    calls = [each.stub.Upload.future(silent()) for each in peers]
    federation.eventually(lambda: len(entered) == 2)
    third = peer("eve")
    federation.eventually(lambda: "2 connections of yours" in held_or_error(third, blob))
    assert "2 connections of yours" in told("eve", "Held")
    release.set()
    assert all(call.exception(20) for call in calls)
    federation.eventually(lambda: held_or_error(third, blob) == "")


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
    federation.mailbox.expect([eve.identity.node_id])
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
