"""Uploads: resumed, one writer each, held to what they announced and to a pace."""

import asyncio
import os
import random
import shutil
import threading
import time

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmore.coordinator.rpc.blobs import upload_quota
from fedmore.coordinator.rpc.blobs.upload_file import to_the_end
from fedmore.coordinator.rpc.blobs.uploads import Limits, Uploads
from fedmore.experts.errors import RegistryError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationStub
from fedmore.protos.wire.blobs import CHUNK, digest_of
from fedmore.protos.wire.flower_compat import make_reply

BIG = random.Random(0).randbytes(5 * CHUNK + 123)


@pytest.fixture
def link(federation):
    identity = federation.enrol("ada")
    federation.ask(identity.node_id)
    with identity.link() as made:
        yield made


def stub(link):
    return FederationStub(link._channels[-1])


def upload_start(data, offset=0, digest=None):
    blob = pb.Blob(digest=digest or digest_of(data), size=len(data))
    return pb.UploadRequest(start=pb.UploadStart(blob=blob, offset=offset))


def parts(data):
    return [pb.UploadRequest(chunk=data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)]


def upload(link, *requests):
    with link._failures():
        return stub(link).Upload(iter(requests), timeout=20)


def held(link, data):
    return stub(link).Held(pb.Blob(digest=digest_of(data), size=len(data)), timeout=20)


def limit(federation, **changes):
    federation.server._parts.uploads.limits = Limits(**changes)


def partials(federation):
    return list((federation.store.root / "incoming").iterdir())


def test_arrays_above_the_message_limit_go_both_ways(federation):
    back = BIG[::-1]

    def handler(message):
        assert message.content["arrays"]["w"].data == BIG
        arrays = ArrayRecord({"w": Array("u1", (len(back),), "raw", back)})
        return make_reply(message, RecordDict({"arrays": arrays}))

    federation.join("ada", handler)
    grid = federation.grid
    arrays = ArrayRecord({"w": Array("u1", (len(BIG),), "raw", BIG)})
    message = Message(RecordDict({"arrays": arrays}), *grid.get_node_ids(), "train")
    [reply] = grid.send_and_receive([message], timeout=30)
    assert reply.has_content(), reply.error.reason
    assert reply.content["arrays"]["w"].data == back
    assert federation.store.get(digest_of(back)) == back


def test_an_upload_resumes_where_it_was_cut(federation, link):
    with pytest.raises(WireError, match="resume it"):
        upload(link, upload_start(BIG), *parts(BIG)[:2])
    assert held(link, BIG).offset == 2 * CHUNK
    receipt = upload(link, upload_start(BIG, 2 * CHUNK), *parts(BIG)[2:])
    assert (receipt.digest, receipt.size) == (digest_of(BIG), len(BIG))
    assert federation.store.get(digest_of(BIG)) == BIG
    assert held(link, BIG).complete
    assert partials(federation) == []


def test_an_upload_survives_a_restart_half_done_and_done(federation, link):
    with pytest.raises(WireError):
        upload(link, upload_start(BIG), *parts(BIG)[:2])
    upload(link, upload_start(b"whole"), *parts(b"whole"))
    port = federation.server.port
    federation.server.stop()
    federation.serve(port)
    federation.eventually(lambda: reachable(link))
    assert held(link, BIG).offset == 2 * CHUNK
    assert held(link, b"whole").complete
    upload(link, upload_start(BIG, 2 * CHUNK), *parts(BIG)[2:])
    assert federation.store.get(digest_of(BIG)) == BIG


def reachable(link):
    try:
        return link.describe()
    except TransportError:
        return None


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ([], "begin with 'start'"),
        ([pb.UploadRequest(chunk=b"x")], "begin with 'start'"),
        ([upload_start(b"abc"), pb.UploadRequest(chunk=b"abcd")], "longer than"),
        ([upload_start(b"abc", offset=2)], "cannot resume"),
        ([upload_start(b"abc"), upload_start(b"abc")], "one start"),
        ([upload_start(b"abc"), pb.UploadRequest(chunk=b"")], "no empty chunks"),
        ([upload_start(b"abc", digest="../../etc")], "not a SHA-256"),
        ([upload_start(b"abc", digest=digest_of(b"x")), *parts(b"abc")], "announced"),
    ],
)
def test_a_malformed_upload_is_refused(federation, link, requests, says):
    with pytest.raises(WireError, match=says):
        upload(link, *requests)
    assert federation.store.digests() == set()


def test_an_upload_above_the_limit_is_refused(federation, link):
    limit(federation, size=100)
    with pytest.raises(WireError, match="above the limit of 100"):
        upload(link, upload_start(BIG))
    with pytest.raises(WireError, match="above the limit of 100"), link._failures():
        held(link, BIG)


def test_an_upload_that_stands_still_is_ended_and_can_be_resumed(federation, link):
    limit(federation, stall_s=0.3)
    goes_on = threading.Event()

    def slowly():
        yield upload_start(BIG)
        yield from parts(BIG)[:2]
        goes_on.wait(20)

    with pytest.raises(TransportError, match=r"no progress for 0\.3 s"), link._failures():
        stub(link).Upload(slowly(), timeout=20)
    goes_on.set()
    assert held(link, BIG).offset == 2 * CHUNK


def test_an_upload_that_trickles_is_ended_too(federation, link):
    limit(federation, stall_s=0.3, progress=1000)
    over = threading.Event()

    def trickle():
        yield upload_start(BIG)
        for byte in BIG:
            if over.wait(0.02):
                return
            yield pb.UploadRequest(chunk=bytes([byte]))

    began = time.monotonic()
    with pytest.raises(TransportError, match="no progress"), link._failures():
        stub(link).Upload(trickle(), timeout=20)
    over.set()
    assert time.monotonic() - began < 10


def test_a_client_has_so_many_uploads_open_and_others_are_not_held_up(federation, link):
    limit(federation, each=2)
    goes_on = threading.Event()

    def hanging(data):
        yield upload_start(data)
        goes_on.wait(20)

    calls = [stub(link).Upload.future(hanging(bytes([i]) * 10)) for i in range(2)]
    node = federation.registry.members()[0].node_id
    uploads = federation.server._parts.uploads
    federation.eventually(lambda: len(uploads._open.get(node, ())) == 2)
    with pytest.raises(TransportError, match="2 of your uploads are open"):
        upload(link, upload_start(b"third"), *parts(b"third"))
    bob = federation.enrol("bob")
    federation.ask(bob.node_id)
    with bob.link() as other:
        upload(other, upload_start(b"third"), *parts(b"third"))
    goes_on.set()
    for call in calls:
        assert call.exception(20) is not None
    federation.eventually(lambda: not uploads._open)
    upload(link, upload_start(b"third"), *parts(b"third"))


def test_a_newer_upload_of_the_same_blob_takes_over(federation, link):
    goes_on = threading.Event()

    def hanging():
        yield upload_start(BIG)
        yield from parts(BIG)[:1]
        goes_on.wait(20)
        yield from parts(BIG)[1:]

    old = stub(link).Upload.future(hanging())
    federation.eventually(lambda: held(link, BIG).offset == CHUNK)
    new = upload(link, upload_start(BIG, CHUNK), *parts(BIG)[1:])
    goes_on.set()
    assert "newer call" in old.exception(20).details()
    assert new.size == len(BIG)
    assert federation.store.get(digest_of(BIG)) == BIG


def test_partial_uploads_of_yesterday_are_removed(federation, tmp_path):
    incoming = federation.store.root / "incoming"
    incoming.mkdir(parents=True)
    old, young = incoming / f"1-{'a' * 64}", incoming / f"1-{'b' * 64}"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 90_000,) * 2)
    Uploads(federation.journal)
    assert partials(federation) == [young]


def test_nor_do_they_stay_while_the_coordinator_runs(federation, link):
    with pytest.raises(WireError):
        upload(link, upload_start(BIG), *parts(BIG)[:1])
    [left] = partials(federation)
    os.utime(left, (time.time() - 90_000,) * 2)
    limit(federation, sweep_s=0)
    federation.eventually(lambda: not partials(federation))


def test_an_upload_needs_an_open_task(federation):
    identity = federation.enrol("bob")
    with identity.link() as link:
        with pytest.raises(RegistryError, match="no task of yours is open"):
            upload(link, upload_start(b"x"), *parts(b"x"))
        task_id = federation.ask(identity.node_id)
        upload(link, upload_start(b"x"), *parts(b"x"))
        federation.grid.withdraw([task_id], "too late")
        with pytest.raises(RegistryError, match="no task of yours is open"):
            upload(link, upload_start(b"y"), *parts(b"y"))
        federation.ask(identity.node_id, group_id="")  # one that is in no journal
        upload(link, upload_start(b"y"), *parts(b"y"))


def test_what_no_reply_names_is_limited_for_each_member(federation, link):
    limit(federation, member=100)
    with pytest.raises(WireError, match=r"an upload of 101 bytes .*server\.upload_bytes"):
        upload(link, upload_start(bytes(101)))
    upload(link, upload_start(b"a" * 60), *parts(b"a" * 60))
    upload(link, upload_start(b"a" * 60), *parts(b"a" * 60))  # the same, once more
    with pytest.raises(WireError, match="ended after 30 of 40"):
        upload(link, upload_start(b"b" * 40), *parts(b"b" * 30))
    with pytest.raises(WireError, match="beside the 90 that no reply of yours names"):
        upload(link, upload_start(b"c" * 11))
    upload(link, upload_start(b"b" * 40), *parts(b"b" * 40))
    assert len(federation.store.digests()) == 2


def test_a_member_leaves_so_many_files_unfinished(federation, link, monkeypatch):
    monkeypatch.setattr(upload_quota, "UNFINISHED", 3)
    for number in range(3):
        with pytest.raises(WireError, match="ended after"):
            upload(link, upload_start(bytes([number]) * 9))
    with pytest.raises(WireError, match="3 of your uploads are unfinished"):
        upload(link, upload_start(b"another"))
    upload(link, upload_start(bytes(9)), *parts(bytes(9)))


def test_what_was_announced_is_reserved(federation, link, monkeypatch):
    """Two uploads at once may not count on the same room."""
    usage = shutil.disk_usage(federation.directory)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    limit(federation, free=100, share=1.0)
    goes_on = threading.Event()

    def hanging():
        yield upload_start(b"a" * 600)
        goes_on.wait(20)

    call = stub(link).Upload.future(hanging())
    uploads = federation.server._parts.uploads
    federation.eventually(
        lambda: any(p.admitted for of in uploads._open.values() for p in of.values())
    )
    with pytest.raises(TransportError, match="no room for 301 bytes: 400 are free"):
        upload(link, upload_start(b"b" * 301), *parts(b"b" * 301))
    upload(link, upload_start(b"b" * 300), *parts(b"b" * 300))
    goes_on.set()
    assert call.exception(20) is not None


@pytest.mark.parametrize("wrong", [None, WireError("the upload ended too soon")])
def test_what_was_wrong_is_raised_although_the_call_is_cut_off_meanwhile(wrong):
    """gRPC ends a call whose message is too large, and says so to the client alone."""
    begun, go_on = threading.Event(), threading.Event()

    def step(error):
        begun.set()
        assert go_on.wait(10)
        if error:
            raise error

    async def cut_off():
        task = asyncio.create_task(to_the_end(step, wrong))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await task

    with pytest.raises((asyncio.CancelledError, WireError)) as raised:
        asyncio.run(cut_off())
    assert raised.type is (WireError if wrong else asyncio.CancelledError)
