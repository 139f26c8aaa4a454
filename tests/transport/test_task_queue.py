import threading

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import Task, TaskQueue
from fedmore.protos.wire.flower_compat import NODE_UNAVAILABLE, make_reply


@pytest.fixture
def queue():
    return TaskQueue()


@pytest.fixture
def grid(queue):
    return TaskGrid(queue)


def instruction(node, text=""):
    return Message(RecordDict({"c": ConfigRecord({"text": text})}), node, "train")


def answer(task, text="done"):
    return make_reply(task, RecordDict({"c": ConfigRecord({"text": text})}))


def put_back(queue, task, text="done"):
    return queue.reply(task.id, answer(task.content, text))


def working(queue, node, count, handler=answer):
    """A node in a thread that answers `count` tasks."""

    def work():
        for _ in range(count):
            task = queue.take(node, timeout=5)
            queue.reply(task.id, handler(task.content))

    thread = threading.Thread(target=work, daemon=True)
    queue.join(node)
    thread.start()
    return thread


def test_replies_come_in_the_order_of_the_messages(grid, queue):
    for node in (3, 1, 2):
        working(queue, node, 1, lambda t: answer(t, str(t.metadata.dst_node_id)))
    assert list(grid.get_node_ids()) == [1, 2, 3]

    messages = [instruction(n) for n in (2, 3, 1)]
    replies = grid.send_and_receive(messages, timeout=5)

    assert [r.content["c"]["text"] for r in replies] == ["2", "3", "1"]
    ids = [m.metadata.message_id for m in messages]
    assert [r.metadata.reply_to_message_id for r in replies] == ids
    assert len(set(ids)) == 3


def test_a_node_has_its_tasks_one_after_another(queue, grid):
    queue.join(1)
    ids = list(grid.push_messages([instruction(1, "a"), instruction(1, "b")]))
    first, second = queue.take(1), queue.take(1)
    assert [first.id, second.id] == ids
    assert queue.take(1) is None
    put_back(queue, second)
    assert [m.metadata.reply_to_message_id for m in grid.pull_messages(ids)] == [ids[1]]
    put_back(queue, first)
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []


def test_timeout_gives_an_error_and_the_node_hears_of_it(queue, grid):
    queue.join(1)
    [reply] = grid.send_and_receive([instruction(1)], timeout=0.05)
    assert reply.has_error()
    assert "no reply within 0.05 s" in reply.error.reason
    task_id = reply.metadata.reply_to_message_id
    assert queue.take_withdrawn(1) == [task_id]
    assert queue.take_withdrawn(1) == []
    assert queue.take(1) is None


def test_a_reply_after_the_timeout_is_ignored(queue, grid):
    queue.join(1)
    message = instruction(1)
    grid.push_messages([message])
    task = queue.take(1)
    grid.withdraw([message.metadata.message_id], "too late")
    assert not put_back(queue, task)
    [reply] = grid.pull_messages([message.metadata.message_id])
    assert reply.has_error()


def test_a_node_that_leaves_fails_its_tasks_at_once(queue, grid):
    queue.join(1)
    queue.join(2)
    results = []
    messages = [instruction(1), instruction(2)]
    thread = threading.Thread(
        target=lambda: results.extend(grid.send_and_receive(messages, timeout=60))
    )
    thread.start()
    task = queue.take(2, timeout=5)
    put_back(queue, task)
    queue.leave(1, "no sign of life for 10 s")
    thread.join(5)
    failed, done = results
    assert failed.error.code == NODE_UNAVAILABLE
    assert failed.error.reason == "no sign of life for 10 s"
    assert failed.metadata.src_node_id == 1
    assert done.has_content()
    assert list(grid.get_node_ids()) == [2]


def test_a_node_that_is_not_there_answers_with_an_error(grid):
    [reply] = grid.send_and_receive([instruction(9)], timeout=5)
    assert "node 9 is not connected" in reply.error.reason


def test_a_second_reply_changes_nothing(queue, grid):
    queue.join(1)
    [task_id] = grid.push_messages([instruction(1)])
    task = queue.take(1)
    assert put_back(queue, task, "first")
    assert not put_back(queue, task, "second")
    assert not queue.fail(task_id, "too late")
    [reply] = grid.pull_messages([task_id])
    assert reply.content["c"]["text"] == "first"


def test_joining_again_hands_out_the_open_tasks_again(queue, grid):
    queue.join(1)
    ids = list(grid.push_messages([instruction(1, "a"), instruction(1, "b")]))
    put_back(queue, queue.take(1))
    queue.take(1)
    queue.join(1)
    assert queue.take(1).id == ids[1]
    assert queue.take(1) is None
    assert queue.nodes() == [1]


def test_the_same_message_is_queued_once(queue, grid):
    queue.join(1)
    message = instruction(1)
    assert grid.push_messages([message]) == grid.push_messages([message])
    assert queue.take(1).content is message
    assert queue.take(1) is None


def test_listeners_hear_of_tasks_and_withdrawals(queue, grid):
    heard = []
    queue.subscribe(heard.append)
    queue.join(1)
    [task_id] = grid.push_messages([instruction(1)])
    queue.withdraw(task_id, "enough")
    assert heard == [1, 1, 1]


def test_waiting_ends_when_the_node_leaves(queue):
    queue.join(1)
    results = []
    thread = threading.Thread(target=lambda: results.append(queue.take(1, timeout=None)))
    thread.start()
    queue.leave(1, "gone")
    thread.join(5)
    assert results == [None]


def test_waiting_for_nodes(queue):
    assert not queue.wait_for_nodes(1, timeout=0.01)
    queue.join(1)
    assert queue.wait_for_nodes(1)


def test_create_message_is_flowers_older_way(grid):
    message = grid.create_message(RecordDict(), "train", 4, "g", ttl=3)
    assert (message.metadata.dst_node_id, message.metadata.ttl) == (4, 3)
    assert grid.run.run_id == message.metadata.run_id


def test_a_node_that_is_expected_back_has_time_to_come(queue, grid):
    queue.expect([1, 2])
    ids = grid.push_messages([instruction(1), instruction(2)])
    assert queue.expected() == [1, 2]
    assert queue.nodes() == []
    assert grid.pull_messages(ids) == []
    queue.join(1)
    assert queue.take(1).id == ids[0]
    queue.leave(2, "not back in time")
    [failed] = grid.pull_messages(ids)
    assert failed.error.reason == "not back in time"
    assert queue.expected() == []
    [refused] = grid.send_and_receive([instruction(2)], timeout=5)
    assert "not connected" in refused.error.reason


def test_a_task_that_was_lost_is_handed_out_again_once(queue, grid):
    queue.join(1)
    [task_id] = grid.push_messages([instruction(1)])
    queue.again(task_id)
    task = queue.take(1)
    assert queue.take(1) is None
    queue.again(task_id)
    assert queue.take(1) is task
    put_back(queue, task)
    queue.again(task_id)
    assert queue.take(1) is None


def test_pushing_and_pulling_withdraws_nothing(queue, grid):
    queue.join(1)
    [task_id] = grid.push_messages([instruction(1)])
    task = queue.take(1)
    for _ in range(3):
        assert grid.pull_messages([task_id]) == []
    assert queue.take_withdrawn(1) == []
    put_back(queue, task)
    assert len(grid.pull_messages([task_id])) == 1


def test_an_answer_that_is_known_is_not_asked_for(queue):
    queue.join(1)
    tasks = [Task("a", 1), Task("b", 1)]
    queue.push(tasks, lambda: {"a": "known", "elsewhere": "no"})
    assert queue.take(1) == tasks[1]
    assert queue.take(1) is None
    assert queue.collect(["a", "b"]) == [(tasks[0], "known")]
    assert queue.unknown(["a", "b"]) == ["a"]


@given(st.lists(st.sampled_from(["join", "leave", "take", "reply", "fail", "push"]), max_size=30))
def test_whatever_happens_every_task_is_answered_once(steps):
    queue, pushed, handed = TaskQueue(), [], []
    grid = TaskGrid(queue)
    queue.join(1)
    for step in steps:
        if step == "push":
            pushed += grid.push_messages([instruction(1)])
        elif step == "take" and (task := queue.take(1)):
            handed.append(task)
        elif step == "reply" and handed:
            put_back(queue, handed[-1])
        elif step == "fail" and pushed:
            queue.fail(pushed[0], "failed")
        elif step == "join":
            queue.join(1)
        elif step == "leave":
            queue.leave(1, "left")
    queue.leave(1, "the end")
    replies = grid.pull_messages(pushed)
    assert [r.metadata.reply_to_message_id for r in replies] == pushed


def test_a_task_is_interrupted_once_its_node_is_another_process(queue):
    queue.join(1, "first")
    queue.push([Task("t", 1), Task("waits", 1)])
    queue.keep(["t", "waits"])
    assert queue.take(1).id == "t"
    both = ["t", "waits", "unknown"]
    assert queue.interrupted(both) == []
    queue.leave(1, "silence")
    assert queue.interrupted(both) == []
    queue.join(1, "first")
    assert queue.interrupted(both) == []
    queue.join(1, "second")
    assert queue.take(1).id == "t"
    assert queue.interrupted(both) == ["t"]
    queue.reply("t", "done")
    assert queue.interrupted(both) == []
