import random

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmore.client import rpc
from fedmore.experts.errors import RegistryError, TokenError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import CHUNK, digest_of
from fedmore.protos.flower import make_reply

BIG = random.Random(0).randbytes(5 * CHUNK + 123)


@pytest.fixture
def link(federation):
    with federation.enrol("ada").link() as made:
        yield made


def upload_start(data, offset=0, digest=None):
    blob = pb.Blob(digest=digest or digest_of(data), size=len(data))
    return pb.UploadRequest(start=pb.UploadStart(blob=blob, offset=offset))


def upload_raw(link, *requests):
    with link._failures():
        return link._stub.Upload(iter(requests), metadata=link._metadata)


def held(link, data):
    return link._stub.Held(pb.Blob(digest=digest_of(data), size=len(data)), metadata=link._metadata)


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


def test_an_upload_resumes_where_it_was_cut(federation, link, monkeypatch):
    chunks = [pb.UploadRequest(chunk=BIG[i * CHUNK : (i + 1) * CHUNK]) for i in range(2)]
    with pytest.raises(WireError, match="resume it"):
        upload_raw(link, upload_start(BIG), *chunks)
    assert held(link, BIG).offset == 2 * CHUNK

    offsets = []
    split = rpc.split
    monkeypatch.setattr(rpc, "split", lambda data, at: offsets.append(at) or split(data, at))
    link.upload(digest_of(BIG), BIG)

    assert offsets == [2 * CHUNK]
    assert federation.store.get(digest_of(BIG)) == BIG
    assert held(link, BIG).complete
    link.upload(digest_of(BIG), BIG)
    assert len(offsets) == 1, "what the coordinator has is not sent again"


def test_an_upload_with_another_digest_is_refused_and_leaves_nothing(federation, link):
    wrong = digest_of(b"something else")
    with pytest.raises(WireError, match="announced"):
        upload_raw(link, upload_start(BIG, digest=wrong), *parts(BIG))
    assert not federation.store.has(wrong)
    assert not federation.store.has(digest_of(BIG))
    assert list((federation.store.root / "incoming").iterdir()) == []


def parts(data):
    return [pb.UploadRequest(chunk=data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)]


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ([], "begin with 'start'"),
        ([pb.UploadRequest(chunk=b"x")], "begin with 'start'"),
        ([upload_start(b"abc"), pb.UploadRequest(chunk=b"abcd")], "longer than"),
        ([upload_start(b"abc", offset=2)], "cannot resume"),
        ([upload_start(b"abc"), upload_start(b"abc")], "one start"),
        ([upload_start(b"abc", digest="../../etc")], "not a SHA-256"),
    ],
)
def test_a_malformed_upload_is_refused(link, requests, says):
    with pytest.raises(WireError, match=says):
        upload_raw(link, *requests)


def test_an_upload_above_the_limit_is_refused(link):
    start = pb.UploadStart(blob=pb.Blob(digest="a" * 64, size=2**60))
    with pytest.raises(WireError, match="above the limit"):
        upload_raw(link, pb.UploadRequest(start=start))


def test_a_download_resumes_and_is_checked(federation, link):
    digest = federation.store.put(BIG)
    grant(federation, digest)
    assert link.download(digest, len(BIG), bytearray(BIG[: 3 * CHUNK])) == BIG
    with pytest.raises(WireError, match="did not come as announced"):
        link.download(digest, len(BIG), bytearray(b"x" * CHUNK))
    with pytest.raises(WireError, match="did not come as announced"):
        link.download(digest, 10, bytearray())


def grant(federation, digest):
    node_id = federation.registry.members()[0].node_id
    federation.server._parts.blobs.grant(node_id, "task", [digest])


def test_only_what_a_task_names_can_be_downloaded(federation, link):
    digest = federation.store.put(b"another client's update")
    with pytest.raises(RegistryError, match="no task of yours"):
        link.download(digest, 3, bytearray())
    grant(federation, digest)
    federation.store.path(digest).unlink()
    with pytest.raises(RegistryError, match="missing"):
        link.download(digest, 3, bytearray())


def test_a_reply_may_name_only_what_its_client_uploaded(federation):
    stolen = federation.store.put(b"another client's update")
    node = federation.enrol("ada").node_id
    with pytest.raises(WireError, match="not uploaded"):
        federation.server._parts.blobs.fetch(node, stolen)


def test_without_a_credential_nothing_moves(federation):
    with rpc.Link(
        f"127.0.0.1:{federation.server.port}", federation.ca.certificate.decode()
    ) as link:
        with pytest.raises(TokenError, match="no credential"):
            link.upload(digest_of(b"x"), b"x")
        with pytest.raises(TokenError):
            link.download(digest_of(b"x"), 1, bytearray())
