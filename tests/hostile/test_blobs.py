"""What a hostile client uploads and asks for."""

import grpc
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedmore.client.identity.keys import own_key, signing_request
from fedmore.client.transport.credentials import invite_keys
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationStub
from fedmore.protos.wire.blobs import MAX_BLOB, digest_of
from fedmore.strategies.tasks.train import METRICS

DATA = b"change" * 1000


@pytest.fixture
def asked(federation, peer):
    """Call it with a name: a hostile member that has a task."""

    def make(name):
        made = peer(name)
        federation.ask(made.identity.node_id)
        return made

    return make


def refused(call):
    """The status and the words that a call ends with."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"digest": "0" * 64}, "announced 000000000000"),
        ({"digest": "../../../etc/passwd"}, "is not a SHA-256 digest"),
        ({"digest": "A" * 64}, "is not a SHA-256 digest"),
        ({"digest": "0" * 63 + "\n"}, "is not a SHA-256 digest"),
        ({"size": 10}, "longer than the 10 bytes"),
        ({"size": len(DATA) + 1}, "ended after 6000 of 6001 bytes"),
        ({"size": MAX_BLOB + 1}, "above the limit"),
        ({"size": (1 << 64) - 1}, "above the limit"),
    ],
)
def test_an_upload_that_is_not_what_it_says(federation, asked, told, lie, says):
    _, details = refused(lambda: asked("eve").upload(DATA, **lie))
    assert says in details
    stored = [p for p in federation.store.root.rglob("*") if p.is_file()]
    assert not any(p.read_bytes() == DATA for p in stored if "incoming" not in p.parts)
    assert says in told("eve", "Upload")


def test_it_cannot_begin_in_the_middle(asked, told):
    blob = pb.Blob(digest=digest_of(DATA), size=len(DATA))
    for offset in (1, len(DATA), 1 << 62):
        start = pb.UploadRequest(start=pb.UploadStart(blob=blob, offset=offset))
        eve = asked("eve")
        assert refused(lambda start=start, eve=eve: eve.stub.Upload(iter([start])))
    assert "cannot resume at" in told("eve", "Upload")


def test_two_starts_and_none(peer, told):
    eve = peer("eve")
    start = pb.UploadRequest(start=pb.UploadStart(blob=pb.Blob(digest="0" * 64, size=4)))
    for parts in ([start, start], [pb.UploadRequest(chunk=b"x")], [], [pb.UploadRequest()]):
        refused(lambda parts=parts: eve.stub.Upload(iter(parts)))
    assert "must begin with 'start'" in told("eve", "Upload")


@pytest.mark.parametrize("digest", ["0" * 64, "", "../lock", "x" * 100_000])
def test_a_download_of_what_no_task_of_its_names(federation, peer, told, digest):
    federation.store.put(DATA)
    for asked in (digest, digest_of(DATA)):
        code, _ = refused(lambda a=asked: list(peer("eve").stub.Download(
            pb.DownloadRequest(digest=a))))  # fmt: skip
        too_long = len(asked) > 10_000  # is refused before it is read
        assert code == (grpc.StatusCode.DATA_LOSS if too_long else grpc.StatusCode.NOT_FOUND)
    assert "no task of yours names the blob" in told("eve", "Download")


def test_a_reply_that_names_what_another_uploaded(round_of, caplog):
    """Bob's blob would do as Eve's update: she has not sent it."""
    bob = type(round_of.eve)(round_of.federation.enrol("bob"))
    data = bytes(4 * 3 * 4 * 20)
    round_of.federation.ask(bob.identity.node_id)
    bob.upload(data)
    bob.close()
    array = pb.Array(dtype="uint8", shape=[len(data)], stype="fedmore.fp32",
                     blob=pb.Blob(digest=digest_of(data), size=len(data)))  # fmt: skip
    records = pb.Records()
    records.entries.add(key="update").arrays.entries.add(key="change").array.CopyFrom(array)
    round_of.eve.introduce()
    task_id = round_of.eve.task("train").task_id
    round_of.eve.say(reply=pb.Reply(task_id=task_id, content=pb.Content(records=records)))
    assert "was not uploaded" in round_of.end()["failures"][0]
    assert "eve: its task " in caplog.text


def test_a_blob_for_an_array_whose_shape_is_a_lie(round_of):
    data = b"x" * 100_000
    round_of.eve.introduce()
    task_id = round_of.eve.task("train").task_id
    round_of.eve.upload(data)
    content = RecordDict({
        "update": ArrayRecord({"change": Array("uint8", (1 << 40,), "fedmore.fp32", data)}),
        "metrics": MetricRecord(dict.fromkeys(METRICS, 1.0)),
    })  # fmt: skip
    round_of.eve.reply(task_id, content)
    assert "an array of 100000 bytes says that it has the shape" in round_of.end()["failures"][0]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"name": "x" * 100_000}, None),
        ({"target": "../../x"}, None),
        ({"kind": "root"}, None),
        ({"rank": -4}, None),
        ({"rank": 1 << 62}, None),
        ({"token": "x" * 1_000}, grpc.StatusCode.UNAUTHENTICATED),
        ({"token": "x" * 100_000}, grpc.StatusCode.DATA_LOSS),
        ({"identity": "x" * 100_000}, None),
        ({"identity": ""}, None),
    ],
)
def test_an_enrolment_of_nonsense(federation, told, words, code):
    invite = federation.invite("mallory")
    keys = invite_keys(invite)
    key = own_key(federation.directory / "mallory")
    true = {"token": invite.token, "name": "mallory", "kind": "expert", "target": "legal",
            "rank": 4, "identity": signing_request(key, "mallory")}  # fmt: skip
    credentials = grpc.ssl_channel_credentials(
        keys.ca.encode(), keys.key.encode(), keys.certificate.encode()
    )
    with grpc.secure_channel(invite.address, credentials) as channel:
        found, _ = refused(lambda: FederationStub(channel).Enrol(pb.EnrolRequest(**(true | words))))
    assert found not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert code in (None, found)
    assert told("invite mallory", "Enrol")


def test_an_upload_that_nobody_asked_for(federation, peer, told):
    code, details = refused(lambda: peer("eve").upload(DATA))
    assert code == grpc.StatusCode.NOT_FOUND
    assert "no task of yours is open" in details
    assert not list(federation.store.root.rglob("*-*"))
    assert "RegistryError" in told("eve", "Upload")


def test_whether_a_blob_is_here_is_not_told(federation, peer):
    """Or a client could ask whether another one sent just this."""
    federation.store.put(DATA)
    eve = peer("eve")
    held = eve.stub.Held(pb.Blob(digest=digest_of(DATA), size=len(DATA)))
    assert (held.complete, held.offset) == (False, 0)
