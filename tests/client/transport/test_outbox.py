"""What is said on a stream, in which order, and how little of it can wait."""

import threading

from fedmore.client.transport.outbox import Outbox
from fedmore.protos import federation_pb2 as pb


def make_outbox(heartbeat_s=2.0, in_hand=tuple):
    now = [0.0]
    return Outbox(pb.Hello(session="s"), in_hand, heartbeat_s, clock=lambda: now[0]), now


def kinds(outbox):
    return [event.WhichOneof("event") for event in outbox]


def test_hello_is_first_and_leave_last():
    outbox, _ = make_outbox()
    outbox.leave("done")
    outbox.progress(pb.Progress(task_id="b"))
    outbox.reply(pb.Reply(task_id="a"))
    assert kinds(outbox) == ["hello", "reply", "progress", "leave"]
    assert kinds(outbox) == []


def test_silence_is_filled_with_heartbeats():
    outbox = Outbox(pb.Hello(), heartbeat_s=0.01)
    assert [next(outbox).WhichOneof("event") for _ in range(3)] == ["hello"] + 2 * ["heartbeat"]


def test_heartbeats_come_in_time_however_much_is_said_and_name_what_is_in_hand():
    outbox, now = make_outbox(in_hand=lambda: ["t1", "t2"])
    next(outbox)
    for step in range(4):
        outbox.progress(pb.Progress(task_id="t1", step=step))
        now[0] += 1.0
        outbox.progress(pb.Progress(task_id="t2", step=step))
    heartbeat = next(outbox).heartbeat
    assert list(heartbeat.tasks) == ["t1", "t2"]
    assert next(outbox).WhichOneof("event") == "progress"


def test_of_progress_only_the_latest_waits():
    outbox, _ = make_outbox()
    for step in range(100):
        outbox.progress(pb.Progress(task_id="a", step=step))
        outbox.progress(pb.Progress(task_id="b", step=step))
    outbox.close()
    assert [e.progress.step for e in outbox if e.WhichOneof("event") == "progress"] == [99, 99]


def test_a_reply_waits_once_and_follows_its_last_progress():
    outbox, _ = make_outbox()
    for _ in range(3):
        outbox.progress(pb.Progress(task_id="a"))
        outbox.reply(pb.Reply(task_id="a"))
    outbox.close()
    assert kinds(outbox) == ["hello", "progress", "reply"]


def test_a_shorter_heartbeat_holds_at_once():
    outbox = Outbox(pb.Hello(), heartbeat_s=60.0)
    next(outbox)
    heard = []
    thread = threading.Thread(target=lambda: heard.append(next(outbox)))
    thread.start()
    outbox.beat(0.01)
    thread.join(5)
    assert [event.WhichOneof("event") for event in heard] == ["heartbeat"]
