"""A client without a task hears how far the plan is; one at work is left in peace."""

import threading

from flwr.app import RecordDict

from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import make_reply


def test_a_client_that_waits_is_told_when_something_changes(federation):
    federation.news = pb.News(doing=pb.News.ROUND, stage=1, stages=2, round=1, rounds=2, total=3)
    waiting = federation.join("ana", lambda message: make_reply(message, RecordDict()))
    said = "waiting: stage 1 of 2, round 1 of 2; 0 of 3 clients have answered"
    federation.eventually(lambda: said in waiting.statuses)
    waiting.session._waiting._told_at = float("-inf")  # as if a minute had passed
    federation.news = pb.News(doing=pb.News.SCORING, stage=1, stages=2, done=2, total=9)
    federation.eventually(lambda: any("scored, 2 of 9" in line for line in waiting.statuses))


def test_a_client_at_work_is_told_nothing(federation):
    entered, over = threading.Event(), threading.Event()

    def work(message):
        entered.set()
        assert over.wait(20)
        return make_reply(message, RecordDict())

    busy = federation.join("ana", work)
    task = federation.ask(busy.identity.node_id)
    assert entered.wait(10)
    federation.news = pb.News(doing=pb.News.ROUND, stage=1, stages=2, total=3)
    seen = federation.server._parts.connections._present
    [presence] = seen.values()
    beats, stream = presence.seen, presence.connection
    federation.eventually(lambda: presence.seen > beats + 0.5, within_s=30)
    assert presence.connection is stream
    assert not [line for line in busy.statuses if line.startswith("waiting")]
    over.set()
    federation.eventually(lambda: federation.queue.task(task) is None)
    federation.eventually(lambda: [s for s in busy.statuses if s.startswith("waiting")])
