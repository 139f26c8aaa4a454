"""What a session says and fetches: recorded before it leaves, small, and resumed after its end."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmore.client.identity.enrolment import describe
from fedmore.client.session.runner import Session
from fedmore.client.training.progress import report
from fedmore.client.transport.channel import Link
from fedmore.client.transport.retry import Backoff
from fedmore.coordinator.pki.tls_files import Tls
from fedmore.experts.errors import EgressError, PeerError
from fedmore.protos.wire.blobs import CHUNK, MAX_MESSAGE
from fedmore.protos.wire.flower_compat import make_reply

BIG = os.urandom(5 * CHUNK + 17)


class Recorder:
    """An audit in memory, which refuses what it is told to."""

    def __init__(self):
        self.lines, self.refused = [], ()

    def record(self, call, size, *, task="", digest=""):
        if call in self.refused:
            raise EgressError("the audit cannot be written")
        self.lines.append((call, size, task, digest))

    def calls(self):
        return {line[0] for line in self.lines}


def run(federation, identity, handler, **options):
    """A session in a thread; what it raised is its result."""
    session = Session(identity, patience_s=20.0, **options)
    pool = ThreadPoolExecutor(1)
    result = pool.submit(session.run, handler)
    pool.shutdown(wait=False)
    return session, result


def ask(federation, **arrays):
    federation.eventually(federation.queue.nodes)
    [node] = federation.grid.get_node_ids()
    message = Message(RecordDict({"arrays": ArrayRecord(arrays)}), node, "train")
    [reply] = federation.grid.send_and_receive([message], timeout=30)
    return reply


def big(data=BIG):
    return Array("u1", (len(data),), "raw", data)


def echo(message):
    report(1, 1, 0.5, 1.0, 8)
    arrays = {str(i): big(bytes([i]) * 60_000) for i in range(40)}  # together above the limit
    content = RecordDict({"a": message.content["arrays"], "b": ArrayRecord(arrays)})
    return make_reply(message, content)


def test_all_that_leaves_is_recorded_and_no_message_is_large(federation):
    recorder = Recorder()
    session, result = run(federation, federation.enrol("ada"), echo, audit=recorder)
    reply = ask(federation, w=big())
    assert reply.content["a"]["w"].data == BIG
    federation.eventually(lambda: "heartbeat" in recorder.calls())
    session.stop()
    assert result.result(10) is False
    assert recorder.calls() == {
        "hello", "heartbeat", "progress", "reply", "leave", "held", "upload", "download",
    }  # fmt: skip
    assert max(size for _, size, _, _ in recorder.lines) <= MAX_MESSAGE
    uploaded = sum(size for call, size, _, _ in recorder.lines if call == "upload")
    assert uploaded > 2_400_000 + len(BIG)
    assert all(digest for call, _, _, digest in recorder.lines if call == "upload")
    [task] = {task for call, _, task, _ in recorder.lines if call == "reply"}
    assert task == reply.metadata.reply_to_message_id


@pytest.mark.parametrize("call", ["hello", "reply", "heartbeat"])
def test_what_cannot_be_recorded_does_not_leave_and_ends_the_session(federation, call):
    recorder = Recorder()
    recorder.refused = (call,)
    _, result = run(federation, federation.enrol("ada"), echo, audit=recorder)
    if call == "reply":
        federation.eventually(federation.queue.nodes)
        threading.Thread(target=ask, args=(federation,), daemon=True).start()
    with pytest.raises(EgressError, match="cannot be written"):
        result.result(10)
    federation.queue.leave(federation.registry.members()[0].node_id, "over")


def test_an_upload_that_cannot_be_recorded_fails_its_task(federation):
    recorder = Recorder()
    recorder.refused = ("upload",)
    session, result = run(federation, federation.enrol("ada"), echo, audit=recorder)
    assert "cannot be written" in ask(federation, w=big()).error.reason
    session.stop()
    result.result(10)


def test_a_download_goes_on_in_the_next_process(federation, tmp_path, monkeypatch):
    identity, offsets, stuck = federation.enrol("ada"), [], threading.Event()
    download = Link.download

    def stall(link, digest, offset):
        for number, data in enumerate(download(link, digest, offset)):
            yield data
            if number == 2:
                stuck.set()
                raise KeyError("the process is killed here")

    def watch(link, digest, offset):
        offsets.append(offset)
        return download(link, digest, offset)

    asked = ThreadPoolExecutor(1)
    monkeypatch.setattr(Link, "download", stall)
    monkeypatch.setattr("fedmore.client.session.reply_sender.ReplySender.bring", lambda *_: None)
    session, result = run(federation, identity, echo, downloads=tmp_path / "d")
    reply = asked.submit(ask, federation, w=big())
    assert stuck.wait(10)
    session._outbox.close()  # without a word
    session._stopped.set()
    result.result(10)

    monkeypatch.undo()
    monkeypatch.setattr(Link, "download", watch)
    session, result = run(federation, identity, echo, downloads=tmp_path / "d")
    assert reply.result(20).content["a"]["w"].data == BIG
    assert offsets == [3 * CHUNK]
    federation.eventually(lambda: list((tmp_path / "d").iterdir()) == [])
    session.stop()
    result.result(10)
    asked.shutdown()


@pytest.fixture
def stranger(authority: Tls):
    """Something else that speaks gRPC with this federation's certificate."""
    server = grpc.server(ThreadPoolExecutor(1))
    pair = authority.server
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_a_coordinator_of_another_version_is_said_at_once(federation, stranger, monkeypatch):
    monkeypatch.setattr(Backoff, "next_delay", None)
    with pytest.raises(PeerError, match="not a fedmore coordinator of this version"):
        describe(replace(federation.invite("ada"), address=stranger))
    identity = replace(federation.enrol("ada"), address=stranger)
    with pytest.raises(PeerError, match="of this version"):
        Session(identity).run(echo)
