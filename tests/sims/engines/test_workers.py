import threading

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedmore.client.training.progress import report
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import DataError
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.sims.engines.workers import Node, Workers
from fedmore.strategies.events import Progress, Received, Sent, Traffic

NODES = (7, 3, 5)
LARGE = bytes(range(256)) * 1024  # above what travels inline


def context(node_id):
    return Context(1, node_id, {"name": f"n{node_id}"}, RecordDict(), {})


@pytest.fixture
def federation():
    """Call it with a handler: the grid and the events, connected until the test ends."""
    stack = []

    def connect(handler, threads=2):
        queue, events = TaskQueue(), []
        nodes = {n: Node(f"n{n}", context(n)) for n in NODES}
        workers = Workers(queue, nodes, handler, events.append, threads)
        workers.__enter__()
        stack.append(workers)
        return TaskGrid(queue), events

    yield connect
    for workers in stack:
        workers.__exit__()


def tasks(grid, data=b"\1\2"):
    content = RecordDict(
        {
            "adapter": ArrayRecord({"a": Array("uint8", (len(data),), "own", data)}),
            "plan": ConfigRecord({"kind": "experts", "round": 2}),
        }
    )
    return [Message(content, n, "train") for n in grid.get_node_ids()]


def echo(message, context):
    report(1, 1, 0.5, 100.0, 64)
    return make_reply(message, message.content)


@pytest.mark.parametrize("data", [b"\1\2", LARGE], ids=["inline", "blob"])
def test_what_arrives_is_what_was_sent_and_is_counted(federation, data):
    grid, events = federation(echo)
    replies = list(grid.send_and_receive(tasks(grid, data), timeout=30))
    assert [r.metadata.src_node_id for r in replies] == sorted(NODES)
    assert all(r.content.array_records["adapter"]["a"].data == data for r in replies)
    traffic = [e for e in events if isinstance(e, Traffic)]
    assert len(traffic) == len(NODES)
    assert all(e.bytes_up >= len(data) and e.bytes_down >= len(data) for e in traffic)
    assert {e.name for e in events if isinstance(e, Sent)} == {"n3", "n5", "n7"}
    steps = [e for e in events if isinstance(e, Progress)]
    assert {(e.stage, e.round, e.tokens) for e in steps} == {("experts", 2, 64)}


def test_a_failing_client_fails_its_task_alone_with_its_cause(federation):
    def fail_at_5(message, context):
        if context.node_id == 5:
            raise DataError("no text in it")
        return echo(message, context)

    grid, events = federation(fail_at_5)
    replies = list(grid.send_and_receive(tasks(grid), timeout=30))
    assert [r.has_error() for r in replies] == [False, True, False]
    assert replies[1].error.reason == "DataError: no text in it"
    assert [e.failure for e in events if isinstance(e, Received) and e.failure] == [
        "DataError: no text in it"
    ]


def test_what_cannot_be_packed_fails_the_task_and_hangs_nobody(federation):
    grid, _ = federation(lambda message, context: "not a message")
    replies = list(grid.send_and_receive(tasks(grid), timeout=30))
    assert all(r.has_error() for r in replies)


def test_the_order_of_replies_is_not_who_was_faster(federation):
    turn = {3: threading.Event(), 5: threading.Event(), 7: threading.Event()}
    turn[7].set()

    def slowest_first(message, context):
        assert turn[context.node_id].wait(30)
        turn.get(context.node_id - 2, turn[3]).set()
        return echo(message, context)

    grid, _ = federation(slowest_first, threads=3)
    replies = list(grid.send_and_receive(tasks(grid), timeout=30))
    assert [r.metadata.src_node_id for r in replies] == [3, 5, 7]


def test_state_stays_with_its_client_between_tasks(federation):
    def count(message, context):
        seen = context.state.config_records.get("seen", ConfigRecord({"n": 0}))
        context.state["seen"] = ConfigRecord({"n": int(seen["n"]) + 1})
        return make_reply(message, RecordDict({"seen": context.state["seen"]}))

    grid, _ = federation(count)
    for expected in (1, 2):
        replies = grid.send_and_receive(tasks(grid), timeout=30)
        assert [r.content["seen"]["n"] for r in replies] == [expected] * 3
