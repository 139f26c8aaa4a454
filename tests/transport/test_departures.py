"""A client that is given up with a task in its hands, and comes back."""

import threading

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedmore.client.training.progress import CancelledError, report
from fedmore.coordinator.store.journal_models import TaskRecord
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.strategies.events import Left, Refused
from fedmore.strategies.rounds.quorum_grid import RoundGrid
from fedmore.strategies.stages.expert import ExpertStage


class Departure:
    """A round of a stage whose only client was given up; `may` lets it answer."""

    def __init__(self, federation, late):
        self.federation, self.calls = federation, 0
        self.asked, self.may, self.stopped = (threading.Event() for _ in range(3))
        self.running = federation.join("ada", self.work)
        self.grid = RoundGrid(federation.grid, ExpertStage(late_updates=late))
        [node] = federation.grid.get_node_ids()
        content = RecordDict({"c": ConfigRecord({"stage": "experts", "round": 1})})
        self.task = Message(content, node, "train", group_id="experts/1")
        self.replies = self.go_round([self.task], self.fall_silent)

    def go_round(self, messages, meanwhile=lambda: None):
        self.grid.all_are_late = not messages
        replies = []
        thread = threading.Thread(
            target=lambda: replies.extend(self.grid.send_and_receive(messages, timeout=20))
        )
        thread.start()
        meanwhile()
        thread.join(20)
        assert not thread.is_alive(), "the round does not go on"
        return replies

    def fall_silent(self):
        """What `Connections.sweep` does after `heartbeat_timeout_s`."""
        assert self.asked.wait(10)
        connections = self.federation.server._connections
        [present] = connections._present.values()

        def give_up():
            connections.leave(present.connection, "no sign of life")
            present.connection.end("no sign of life")

        self.federation.server._loop.call_soon_threadsafe(give_up)
        self.federation.eventually(lambda: self.federation.of(Left))

    def work(self, message):
        self.calls += 1
        self.asked.set()
        try:
            while not self.may.wait(0.01):
                report(1, 2, 1.0, 1.0, 1)
        except CancelledError:
            self.stopped.set()
            raise
        return make_reply(message, RecordDict({"c": ConfigRecord({"said": "late"})}))

    def back(self):
        self.federation.eventually(self.federation.queue.nodes)


def rows(federation):
    with federation.registry.database.session() as session:
        return {row.id: row.failed for row in session.query(TaskRecord)}


def test_what_it_says_when_it_is_back_is_used_in_the_next_round(federation):
    away = Departure(federation, "keep")
    task_id = away.task.metadata.message_id
    assert away.replies == []
    assert away.grid.absent == {task_id: "ada left: no sign of life"}
    assert away.grid.pending == {task_id}
    federation.journal.settle("experts/1", away.grid.pending)
    away.back()
    away.may.set()
    [late] = away.go_round([])
    assert late.content["c"]["said"] == "late"
    assert away.calls == 1
    federation.journal.settle("experts/2")
    assert rows(federation) == {}


def test_where_late_answers_are_refused_it_is_told_to_stop_and_can_be_asked_anew(federation):
    away = Departure(federation, "drop")
    [reply] = away.replies
    assert reply.error.reason == "ada left: no sign of life"
    assert rows(federation) == {away.task.metadata.message_id: True}
    away.back()
    assert away.stopped.wait(10), "it works on for nobody"
    away.may.set()
    again = Message(RecordDict(), away.task.metadata.dst_node_id, "train", group_id="experts/2")
    [reply] = away.go_round([again])
    assert reply.content["c"]["said"] == "late"
    assert federation.of(Refused) == []


@pytest.mark.parametrize("late", ["keep", "drop"])
def test_it_leaves_nothing_behind(federation, late):
    away = Departure(federation, late)
    away.grid.give_up(list(away.grid.pending))
    federation.journal.settle("experts/1")
    assert rows(federation) == {}
    away.back()
    assert away.stopped.wait(10)
