"""What a client that does not keep to the rules can do: nothing to others."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedmore.client.outbox import Outbox
from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import digest_of
from fedmore.strategies.events import Received


class Raw:
    """A stream in the test's own hands."""

    def __init__(self, federation, name):
        credential = federation.enrol(name)
        self.node_id = credential.node_id
        self.link = credential.link()
        self.outbox = Outbox(pb.Hello(session=name), heartbeat_s=0.1)
        self._events = iter(self.link.connect(self.outbox))
        assert self.next("welcome").heartbeat_s == 0.1

    def next(self, kind):
        event = next(self._events)
        assert event.WhichOneof("event") == kind
        return getattr(event, kind)

    def reply(self, **fields):
        self.outbox.put(pb.ClientEvent(reply=pb.Reply(**fields)))

    def close(self):
        self.outbox.close()
        self.link.close()


@pytest.fixture
def raw(federation):
    opened = []

    def open_(name):
        opened.append(Raw(federation, name))
        return opened[-1]

    yield open_
    for stream in opened:
        stream.close()


def push(federation, node_id):
    message = Message(RecordDict({"c": ConfigRecord({"x": 1})}), node_id, "train")
    [task_id] = federation.grid.push_messages([message])
    return task_id


def replied(federation, task_id):
    assert federation.mailbox.wait([task_id], timeout=10)
    [reply] = federation.grid.pull_messages([task_id])
    return reply


def test_nobody_can_answer_for_another(federation, raw):
    ada, bob = raw("ada"), raw("bob")
    tasks = [push(federation, ada.node_id), push(federation, bob.node_id)]
    assert ada.next("task").task_id == tasks[0]
    for task_id in tasks:
        bob.reply(task_id=task_id, failure=pb.Failure(reason="sabotage"))
    assert replied(federation, tasks[1]).has_error()
    assert federation.mailbox.task(tasks[0]) is not None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "neither content nor failure"),
        ({"content": pb.Content()}, "neither records nor a blob"),
        ({"content": pb.Content(blob=pb.Blob(digest=digest_of(b"x"), size=1))}, "not uploaded"),
    ],
)
def test_a_malformed_reply_fails_its_task_and_not_the_stream(federation, raw, fields, says):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    ada.next("task")
    ada.reply(task_id=task_id, **fields)
    reply = replied(federation, task_id)
    assert reply.error.reason.startswith("WireError")
    assert says in reply.error.reason
    assert says in federation.eventually(lambda: federation.of(Received))[0].failure
    again = push(federation, ada.node_id)
    assert ada.next("task").task_id == again


def test_a_content_that_cannot_travel_fails_its_task(federation, raw):
    ada = raw("ada")
    bad = Message(RecordDict({"c": ConfigRecord({"x": 2**70})}), ada.node_id, "train")
    [reply] = federation.grid.send_and_receive([bad], timeout=10)
    assert "cannot be encoded" in reply.error.reason


def test_a_withdrawn_task_is_cancelled_at_the_client(federation, raw):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    assert ada.next("task").task_id == task_id
    federation.mailbox.withdraw(task_id, "enough")
    assert ada.next("cancel").task_id == task_id


def test_a_stream_must_begin_with_hello(federation):
    with federation.enrol("ada").link() as link:
        outbox = iter([pb.ClientEvent(heartbeat=pb.Heartbeat())])
        with pytest.raises(WireError, match="begin with 'hello'"):
            list(link.connect(outbox))
