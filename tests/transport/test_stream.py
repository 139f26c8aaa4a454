"""What a stream promises: tasks until they are in hand, replies until they are on disk."""

import asyncio
import threading
from queue import SimpleQueue

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedmore.coordinator.rpc import federation_service, stream
from fedmore.experts.errors import StoreError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.blobs import digest_of
from fedmore.strategies.events import Progress, Received, Refused, Sent


class Raw:
    """A stream in the test's own hands."""

    def __init__(self, identity):
        self.identity = identity
        self.node_id = identity.node_id
        self.link = identity.link()
        self._said = SimpleQueue()
        self.say(hello=pb.Hello(session="s"))
        self._events = iter(self.link.connect(iter(self._said.get, None)))
        assert self.next("welcome").heartbeat_s == 0.1

    def next(self, kind):
        event = next(self._events)
        assert event.WhichOneof("event") == kind
        return getattr(event, kind)

    def say(self, **event):
        self._said.put(pb.ClientEvent(**event))

    def reply(self, **fields):
        self.say(reply=pb.Reply(**fields))

    def done(self, task_id, text="done"):
        records = pb.Records()
        entry = records.entries.add(key="c")
        entry.config.entries.add(key="text", text=text)
        self.reply(task_id=task_id, content=pb.Content(records=records))

    def close(self):
        self._said.put(None)
        self.link.close()


@pytest.fixture
def raw(federation):
    opened = []

    def open_(name, identity=None):
        opened.append(Raw(identity or federation.enrol(name)))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def push(federation, node_id, group="experts/1"):
    content = RecordDict({"c": ConfigRecord({"stage": "experts", "round": 2})})
    [task_id] = federation.grid.push_messages([Message(content, node_id, "train", group_id=group)])
    return task_id


def replied(federation, task_id):
    assert federation.queue.wait([task_id], timeout=10)
    [reply] = federation.grid.pull_messages([task_id])
    return reply


@pytest.mark.parametrize("group", ["", "experts/1"])
def test_a_reply_is_on_disk_when_it_is_taken(federation, raw, group):
    ada = raw("ada")
    task_id = push(federation, ada.node_id, group)
    assert ada.next("task").task_id == task_id
    ada.done(task_id)
    assert ada.next("taken").task_id == task_id
    assert replied(federation, task_id).content["c"]["text"] == "done"


def test_a_reply_again_is_taken_again_and_counts_once(federation, raw):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    ada.next("task")
    for _ in range(3):
        ada.done(task_id)
        assert ada.next("taken").task_id == task_id
    assert replied(federation, task_id).has_content()
    assert len(federation.of(Received)) == 1
    assert federation.of(Refused) == []


def test_a_reply_that_the_disk_does_not_take_is_not_acknowledged(federation, raw, monkeypatch):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    ada.next("task")
    take = federation.journal.take

    def full(node_id, reply):
        raise StoreError("the disk is full")

    monkeypatch.setattr(federation.journal, "take", full)
    ada.done(task_id)
    refused = federation.eventually(lambda: federation.of(Refused))
    assert "the disk is full" in refused[0].reason
    assert federation.queue.task(task_id) is not None
    monkeypatch.setattr(federation.journal, "take", take)
    ada.done(task_id)
    assert ada.next("taken").task_id == task_id


def test_a_task_in_nobodys_hands_is_sent_again(federation, raw):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    assert ada.next("task").task_id == task_id
    for tasks in ([task_id], [], [task_id], [], []):
        ada.say(heartbeat=pb.Heartbeat(tasks=tasks))
    assert ada.next("task").task_id == task_id
    ada.done(task_id)
    ada.next("taken")
    for _ in range(3):
        ada.say(heartbeat=pb.Heartbeat())
    other = push(federation, ada.node_id, "experts/2")
    assert ada.next("task").task_id == other, "what is answered is not sent again"


def test_a_task_is_not_sent_after_its_reply_was_taken(federation, raw, monkeypatch):
    """The client comes back with the reply while the task is on its way to be asked again."""
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    ada.next("task")
    loading, taken = threading.Event(), threading.Event()
    load = federation.journal.load

    def slow(wanted):
        loading.set()
        assert taken.wait(10)
        return load(wanted)

    monkeypatch.setattr(federation.journal, "load", slow)
    ada.close()
    back = raw("ada", ada.identity)
    assert loading.wait(10)
    back.done(task_id)
    assert back.next("taken").task_id == task_id
    taken.set()
    other = push(federation, back.node_id, "experts/2")
    assert back.next("task").task_id == other
    sent = federation.eventually(lambda: federation.of(Sent)[1:])
    assert [event.task_id for event in sent] == [other]


def test_nobody_can_answer_for_another(federation, raw):
    ada, bob = raw("ada"), raw("bob")
    tasks = [push(federation, ada.node_id), push(federation, bob.node_id)]
    assert ada.next("task").task_id == tasks[0]
    for task_id in tasks:
        bob.reply(task_id=task_id, failure=pb.Failure(reason="sabotage"))
    assert replied(federation, tasks[1]).has_error()
    assert federation.queue.task(tasks[0]) is not None
    refused = federation.eventually(lambda: federation.of(Refused))
    assert refused == [Refused("bob", tasks[0], "the task is another client's")]


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
    ada.next("taken")
    again = push(federation, ada.node_id, "experts/2")
    assert ada.next("task").task_id == again


def test_progress_says_where_it_belongs(federation, raw):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    ada.next("task")
    ada.say(progress=pb.Progress(task_id=task_id, step=1, steps=4, loss=2.0, tokens=8))
    ada.say(progress=pb.Progress(task_id="another", step=1, steps=4))
    ada.done(task_id)
    ada.next("taken")
    federation.eventually(lambda: federation.of(Received))
    assert federation.of(Progress) == [Progress("ada", "experts", 2, 1, 4, 2.0, 0.0, 8)]


def test_a_content_that_cannot_travel_fails_its_task(federation, raw):
    ada = raw("ada")
    bad = Message(RecordDict({"c": ConfigRecord({"x": 2**70})}), ada.node_id, "train")
    [reply] = federation.grid.send_and_receive([bad], timeout=10)
    assert "cannot be encoded" in reply.error.reason


def test_a_withdrawn_task_is_cancelled_at_the_client(federation, raw):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    assert ada.next("task").task_id == task_id
    federation.grid.withdraw([task_id], "enough")
    assert ada.next("cancel").task_id == task_id
    ada.done(task_id)
    assert ada.next("taken").task_id == task_id
    assert "answered already" in federation.eventually(lambda: federation.of(Refused))[0].reason


def test_a_stream_must_begin_with_hello(federation):
    with federation.enrol("ada").link() as link:
        first = iter([pb.ClientEvent(heartbeat=pb.Heartbeat())])
        with pytest.raises(WireError, match="begin with 'hello'"):
            list(link.connect(first))


def test_a_stream_that_says_nothing_is_ended(federation, monkeypatch):
    monkeypatch.setattr(federation_service, "FIRST_S", 0.3)
    over = threading.Event()

    def silence():
        over.wait(20)
        yield from ()

    refused = pytest.raises(TransportError, match=r"without 'hello' for 0\.3 s")
    with federation.enrol("ada").link() as link, refused:
        list(link.connect(silence()))
    over.set()


def test_a_client_that_does_not_read_is_let_go_of(federation, raw, monkeypatch):
    """It is gone for the queue although its stream is stuck in the middle of a message."""
    monkeypatch.setattr(stream, "GRACE_S", 0.2)
    ada = raw("ada")
    stuck = threading.Event()

    async def never(_self, _event):
        stuck.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(stream.Stream, "_write", never)
    push(federation, ada.node_id)
    assert stuck.wait(10)
    connections = federation.server._connections
    federation.server._loop.call_soon_threadsafe(connections.expel, ada.node_id, "revoked")
    with pytest.raises(TransportError, match="revoked"):
        list(ada._events)
    assert federation.queue.nodes() == []


@pytest.mark.parametrize("settled", [False, True])
def test_who_was_away_too_long_is_told_to_stop(federation, raw, settled):
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    ada.next("task")
    ada.say(leave=pb.Leave(reason="lunch"))
    assert "lunch" in replied(federation, task_id).error.reason
    if settled:
        federation.journal.settle("experts/1")
    ada.close()
    back = raw("ada", ada.identity)
    back.say(heartbeat=pb.Heartbeat(tasks=[task_id]))
    assert back.next("cancel").task_id == task_id
    back.say(heartbeat=pb.Heartbeat(tasks=[task_id]))
    back.reply(task_id=task_id, failure=pb.Failure(reason="cancelled"))
    assert back.next("taken").task_id == task_id, "and it is told once"
    assert federation.of(Refused) == []


def test_what_is_wanted_is_not_cancelled(federation, raw):
    """The coordinator was started again, and its plan has not asked once more yet."""
    ada = raw("ada")
    task_id = push(federation, ada.node_id)
    ada.next("task")
    federation.queue._open.clear()
    ada.say(heartbeat=pb.Heartbeat(tasks=[task_id]))
    ada.done(task_id)
    assert ada.next("taken").task_id == task_id
