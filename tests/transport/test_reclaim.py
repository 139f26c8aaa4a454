"""The disk that a member takes: its share of it, and all of it back when it is out."""

import random
import shutil
import threading
from datetime import timedelta

import grpc
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmore.coordinator.rpc.blobs.uploads import Limits
from fedmore.coordinator.store.journal_models import UploadRecord
from fedmore.coordinator.store.models import now
from fedmore.experts.errors import MembershipError, TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationStub
from fedmore.protos.wire.blobs import CHUNK, digest_of
from fedmore.protos.wire.flower_compat import make_reply

BIG = random.Random(3).randbytes(3 * CHUNK)


def records(data):
    return RecordDict({"a": ArrayRecord({"w": Array("u1", (len(data),), "raw", data)})})


@pytest.fixture
def eve(federation):
    """A member with an open task; its link."""
    identity = federation.enrol("eve")
    federation.ask(identity.node_id)
    with identity.link() as link:
        link.identity = identity
        yield link


def put_out(federation, link, how):
    if how == "revoked":
        federation.registry.revoke("eve", "lied")
    else:
        link.withdraw("changed my mind", federation.registry.invite_again("eve"))


def files(federation):
    root = federation.store.root
    return [p for p in root.rglob("*") if p.is_file() and p.name != "registry-id"]


@pytest.mark.parametrize("how", ["revoked", "withdrawn"])
def test_what_no_reply_names_is_deleted_at_once(federation, eve, how):
    other = federation.enrol("bob")
    federation.ask(other.node_id)
    with other.link() as link:
        link.upload(digest_of(b"both"), b"both")
    for data in (BIG, b"both"):
        eve.upload(digest_of(data), data)
    partial = federation.store.root / "incoming" / f"{eve.identity.node_id}-{'a' * 64}"
    partial.write_bytes(b"x")
    put_out(federation, eve, how)
    both = federation.store.path(digest_of(b"both"))
    federation.eventually(lambda: files(federation) == [both])


def slow(link, goes_on):
    blob = pb.Blob(digest=digest_of(BIG), size=len(BIG))
    yield pb.UploadRequest(start=pb.UploadStart(blob=blob))
    yield pb.UploadRequest(chunk=BIG[:CHUNK])
    goes_on.wait(20)
    for at in range(CHUNK, len(BIG), CHUNK):
        yield pb.UploadRequest(chunk=BIG[at : at + CHUNK])


@pytest.mark.parametrize("how", ["revoked", "withdrawn"])
def test_an_upload_in_flight_ends(federation, eve, how):
    goes_on = threading.Event()
    call = FederationStub(eve._channels[-1]).Upload.future(slow(eve, goes_on))
    federation.eventually(lambda: [p for p in files(federation) if p.stat().st_size == CHUNK])
    put_out(federation, eve, how)
    assert call.exception(20).code() == grpc.StatusCode.PERMISSION_DENIED
    assert how in call.exception(20).details()
    goes_on.set()
    federation.eventually(lambda: files(federation) == [])


def test_a_download_in_flight_ends(federation, eve):
    data = bytes(64 << 20)  # more than what a connection holds unread
    message = Message(records(data), eve.identity.node_id, "train")
    federation.grid.push_messages([message])
    pieces = eve.download(digest_of(data), 0)
    assert len(next(pieces)) == CHUNK
    federation.registry.revoke("eve", "lied")
    federation.eventually(lambda: federation.server._tender._freed)
    with pytest.raises(MembershipError, match="revoked by the operator"):
        list(pieces)


class Answered:
    """A member whose reply, with a large array, is in the journal."""

    def __init__(self, federation):
        self.running = federation.join("eve", lambda m: make_reply(m, records(BIG)))
        [node] = federation.queue.nodes()
        self.grid = federation.grid
        task = Message(RecordDict(), node, "train", group_id="experts/1")
        [self.task_id] = self.grid.push_messages([task])
        assert federation.queue.wait([self.task_id], 20)
        self.path = federation.store.path(digest_of(BIG))
        assert self.path.is_file()


def test_a_reply_that_nobody_has_read_is_a_failure_and_its_blobs_are_gone(federation):
    answered = Answered(federation)
    federation.registry.revoke("eve", "lied")
    federation.eventually(lambda: not answered.path.exists())
    [reply] = answered.grid.pull_messages([answered.task_id])
    assert "revoked by the operator" in reply.error.reason


def test_one_that_a_strategy_has_stays_until_its_round_is_settled(federation):
    answered = Answered(federation)
    [reply] = answered.grid.pull_messages([answered.task_id])
    federation.registry.revoke("eve", "lied")
    federation.eventually(lambda: federation.server._tender._freed.total() >= 2)
    assert reply.content["a"]["w"].data == BIG
    federation.journal.settle("experts/1")
    assert not answered.path.exists()


def test_a_member_may_take_its_share_of_the_disk_and_not_more(federation, eve, monkeypatch):
    free = 10_000
    usage = shutil.disk_usage(federation.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    federation.server._parts.uploads.limits = Limits(free=1_000, share=0.5)
    data = [bytes([number]) * 1_500 for number in range(4)]
    for each in data[:3]:
        eve.upload(digest_of(each), each)
        free -= len(each)
    with pytest.raises(TransportError, match=r"member's share of the disk, 4500 bytes"):
        eve.upload(digest_of(data[3]), data[3])
    other = federation.enrol("bob")
    federation.ask(other.node_id)
    with other.link() as link:
        link.upload(digest_of(data[3]), data[3])


def test_an_old_upload_that_no_reply_names_goes_unless_its_member_is_here(federation, eve):
    eve.upload(digest_of(BIG), BIG)
    with federation.registry.database.session(write=True) as session:
        for record in session.query(UploadRecord).all():
            record.received_at = now() - timedelta(hours=2)
    reclaimer, path = federation.journal.reclaimer, federation.store.path(digest_of(BIG))
    assert reclaimer.unused({eve.identity.node_id}) == 0
    assert path.exists()
    federation.server._parts.uploads.limits = Limits(sweep_s=0.0)
    federation.eventually(lambda: not path.exists())
