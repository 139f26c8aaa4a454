"""Replies on their way: kept until they are taken, repeated, and never lost with a stream."""

import threading
import time

import pytest
from heard import Heard

from fedmore.client.session import reply_sender as module
from fedmore.client.session.reply_sender import KEPT, KEPT_BYTES, TRIES, ReplySender
from fedmore.client.transport.outbox import Outbox
from fedmore.client.transport.retry import Backoff
from fedmore.experts.errors import EgressError, RegistryError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.messages import PackedReply, pack_failure


class Wire(Heard):
    """A link whose uploads fail as it is told, and an outbox that remembers what was said."""

    def __init__(self):
        super().__init__()
        self.uploads, self.errors, self.fatal = [], [], []
        self.courier = ReplySender(self, self.failed, self.fatal.append)

    def upload(self, digest, payload):
        self.uploads.append(digest)
        if self.errors:
            raise self.errors.pop(0)

    def failed(self, task_id, error):
        return pack_failure(task_id, f"failed: {error}", 2)

    def stream(self, heartbeat_s=60.0):
        outbox = Outbox(pb.Hello(), heartbeat_s=heartbeat_s)
        outbox.reply = self.say
        return outbox


@pytest.fixture
def wire(monkeypatch):
    monkeypatch.setattr(Backoff, "FIRST_S", 0.001)
    made = Wire()
    made.courier.start()
    yield made
    made.courier.stop()
    made.courier.join(5)
    assert not made.courier._thread.is_alive()


def reply(task_id="t", **blobs):
    return PackedReply(pb.Reply(task_id=task_id), blobs)


def test_blobs_go_before_the_reply_and_it_is_kept_until_it_is_taken(wire):
    wire.courier.attach(wire.stream())
    wire.courier.bring(reply(a=b"1", b=b"2"))
    assert wire.wait(1)[0].task_id == "t"
    assert wire.uploads == ["a", "b"]
    assert wire.courier.task_ids() == ["t"]
    wire.courier.taken("t")
    assert wire.courier.task_ids() == []
    assert not wire.courier.again("t")


def test_without_a_stream_it_waits(wire):
    wire.courier.bring(reply())
    time.sleep(0.02)
    assert wire.said == []
    wire.courier.attach(wire.stream())
    wire.wait(1)


def test_a_new_stream_gets_it_again_blobs_and_all(wire):
    wire.courier.attach(wire.stream())
    wire.courier.bring(reply(a=b"1"))
    wire.wait(1)
    wire.courier.attach(None)
    wire.courier.attach(wire.stream())
    wire.wait(2)
    assert wire.uploads == ["a", "a"]


def test_a_silent_stream_gets_it_again_less_and_less_often(wire):
    wire.courier.attach(wire.stream(heartbeat_s=0.002))
    began = time.monotonic()
    wire.courier.bring(reply(a=b"1"))
    wire.wait(5)
    assert time.monotonic() - began >= 0.002 * module.HEARTBEATS * (1 + 2 + 4 + 8)
    assert wire.uploads == ["a"], "the coordinator has the blobs"


def test_it_is_sent_again_when_the_task_is(wire):
    wire.courier.attach(wire.stream())
    wire.courier.bring(reply(a=b"1"))
    wire.wait(1)
    assert wire.courier.again("t")
    wire.wait(2)


def test_a_lost_upload_is_tried_again_and_another_reply_is_not_held_up(wire):
    wire.errors += [TransportError("lost")] * 3
    wire.courier.bring(reply("slow", a=b"1"))
    wire.courier.bring(reply("fast"))
    wire.courier.attach(wire.stream())
    assert {said.task_id for said in wire.wait(2)[:2]} == {"slow", "fast"}
    assert wire.uploads == ["a"] * 4


@pytest.mark.parametrize(
    ("error", "tries"), [(RegistryError("full"), 1), (WireError("bad"), TRIES)]
)
def test_what_is_refused_becomes_a_failure_that_says_so(wire, error, tries):
    wire.errors += [error] * tries
    wire.courier.attach(wire.stream())
    wire.courier.bring(reply(a=b"1"))
    assert wire.wait(1)[0].failure.reason == f"failed: {error}"
    assert wire.uploads == ["a"] * tries


def test_a_reply_that_came_damaged_once_is_offered_again(wire):
    wire.errors += [WireError("damaged")] * 2
    wire.courier.attach(wire.stream())
    wire.courier.bring(reply(a=b"1"))
    assert wire.wait(1)[0].WhichOneof("result") is None


def test_when_even_a_failure_cannot_be_sent_it_is_told(wire):
    def failed(task_id, error):
        raise EgressError("the audit cannot be written")

    wire.courier._failed = failed
    wire.errors.append(EgressError("the audit cannot be written"))
    wire.courier.attach(wire.stream())
    wire.courier.bring(reply(a=b"1"))
    wire.courier._thread.join(5)
    assert isinstance(wire.fatal[0], EgressError)


@pytest.mark.parametrize(
    "kept",
    [[reply(str(i)) for i in range(KEPT)], [reply("big", a=bytes(KEPT_BYTES))]],
    ids=["many", "large"],
)
def test_no_task_is_begun_while_much_is_kept(wire, kept):
    for each in kept:
        wire.courier.bring(each)
    waiting = threading.Thread(target=wire.courier.wait_for_room)
    waiting.start()
    waiting.join(0.02)
    assert waiting.is_alive()
    wire.courier.taken(kept[0].message.task_id)
    waiting.join(5)
    assert not waiting.is_alive()


def test_the_end_lets_go_of_who_waits_for_room():
    courier = ReplySender(None, None, None)
    for i in range(KEPT):
        courier.bring(reply(str(i)))
    courier.stop()
    courier.wait_for_room()
