"""A grid whose backend is the journal, killed (that is, left behind) and opened again."""

import os
import random
import threading

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.journal import Journal
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import RegistryError, StoreError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.blobs import digest_of
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.protos.wire.messages import pack_failure, pack_reply, unpack_task
from fedmore.protos.wire.payloads import StoredArray

BIG = random.Random(0).randbytes(100_000)


class World:
    """A coordinator that can be started again on the same disk."""

    def __init__(self, registry, store, group=""):
        self.registry, self.store, self.group = registry, store, group
        self.start()

    def start(self, nodes=(1, 2), **resume):
        self.queue = TaskQueue()
        self.journal = Journal(
            self.registry.database, self.store, self.registry.digests, self.group
        )
        if resume:
            self.journal.resume(**{"groups": (), "late": (), "retry": False} | resume)
        self.grid = TaskGrid(self.queue, self.journal)
        for node in nodes:
            self.queue.join(node)

    def push(self, *nodes, group="experts/1", data=b"", text=""):
        return list(self.grid.push_messages([asked(n, group, data, text) for n in nodes]))

    def reply(self, node, task_id, text="done", data=b""):
        """As the stream does."""
        task = unpack_task(self.journal.load(task_id), lambda d, _: self.store.get(d))
        packed = pack_reply(task_id, make_reply(task, content(text, data)))
        for digest, payload in packed.blobs.items():
            self.upload(node, digest, payload)
        return self.take(node, packed.message)

    def take(self, node, message):
        verdict = self.journal.take(node, message)
        if verdict.fresh:
            self.queue.reply(message.task_id, self.journal.answer(message.task_id))
        return verdict

    def upload(self, node, digest, data):
        path = self.store.root / "incoming"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self.journal.ledger.add_upload(node, path, digest, len(data))

    def pull(self, *task_ids):
        return [r.content["c"]["text"] for r in self.grid.pull_messages(task_ids)]


def content(text="", data=b""):
    arrays = ArrayRecord({"w": Array("u1", (len(data),), "raw", data)} if data else {})
    return RecordDict({"c": ConfigRecord({"text": text, "stage": "x", "round": 3}), "a": arrays})


def asked(node, group="experts/1", data=b"", text=""):
    return Message(content(text, data), dst_node_id=node, message_type="train", group_id=group)


@pytest.fixture
def world(registry, store):
    return World(registry, store)


def test_after_a_restart_the_same_pushes_find_their_answers_and_open_tasks(world):
    ids = world.push(1, 2)
    world.reply(1, ids[0], "from one")
    world.start()
    assert world.push(1, 2) == ids
    assert world.pull(*ids) == ["from one"]
    assert world.queue.take(1) is None
    assert world.queue.take(2).id == ids[1]
    world.reply(2, ids[1], "from two")
    assert world.pull(*ids) == ["from two"]


def test_a_reply_before_the_plan_has_asked_again_is_taken(world):
    [task_id] = world.push(1)
    world.start()
    assert world.reply(1, task_id, "early").fresh
    assert world.push(1) == [task_id]
    assert world.queue.take(1) is None
    assert world.pull(task_id) == ["early"]


def test_another_content_node_group_or_time_is_another_task(world):
    tasks = world.push(1) + world.push(1, text="other") + world.push(2)
    tasks += world.push(1, group="experts/2") + world.push(1)
    assert len(set(tasks)) == 5
    world.start()
    again = world.push(1) + world.push(1, text="other") + world.push(2)
    again += world.push(1, group="experts/2") + world.push(1)
    assert again == tasks


def test_a_message_object_pushed_twice_is_one_task(world):
    message = asked(1)
    assert world.grid.push_messages([message]) == world.grid.push_messages([message])
    world.queue.take(1)
    assert world.queue.take(1) is None


def test_queries_are_asked_afresh(world):
    [first] = world.push(1, group="")
    assert world.reply(1, first, "now").fresh
    world.start()
    [second] = world.push(1, group="")
    assert first != second
    assert world.queue.take(1).id == second
    assert world.take(1, pb.Reply(task_id=first)).refused
    assert world.reply(1, second, "later").fresh
    assert world.pull(second) == ["later"]


def test_a_foreign_app_names_no_group_and_is_in_the_journal_all_the_same(registry, store):
    world = World(registry, store, group="app")
    [task_id] = world.push(1, group="")
    world.reply(1, task_id)
    world.start()
    assert world.push(1, group="") == [task_id]
    assert world.pull(task_id) == ["done"]


def test_the_first_reply_counts_and_only_from_whom_was_asked(world):
    [task_id] = world.push(1)
    assert world.take(2, pack_failure(task_id, "sabotage", 2).message).refused.startswith("the")
    assert world.reply(1, task_id, "first").fresh
    same = world.reply(1, task_id, "first")
    assert (same.fresh, same.refused) == (False, "")
    assert world.reply(1, task_id, "second").refused == "the task is answered already"
    assert world.pull(task_id) == ["first"]
    assert "no such task" in world.take(1, pb.Reply(task_id="?")).refused


def test_of_two_replies_at_once_one_counts(world):
    [task_id] = world.push(1)
    ready, verdicts = threading.Barrier(2), []

    def reply(text):
        ready.wait()
        verdicts.append(world.reply(1, task_id, text))

    threads = [threading.Thread(target=reply, args=(text,)) for text in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(v.fresh for v in verdicts) == [False, True]
    assert len(world.pull(task_id)) == 1


def test_a_reply_without_what_it_must_hold_is_the_failure_of_its_task(world):
    [task_id] = world.push(1)
    blob = pb.Blob(digest=digest_of(b"never uploaded"), size=5)
    verdict = world.take(1, pb.Reply(task_id=task_id, content=pb.Content(blob=blob)))
    assert verdict.fresh
    assert "not uploaded" in verdict.failure
    [reply] = world.grid.pull_messages([task_id])
    assert "not uploaded" in reply.error.reason


def test_large_arrays_stay_in_the_store(world):
    [task_id] = world.push(1, data=BIG)
    assert world.journal.may_fetch(1, digest_of(BIG))
    assert not world.journal.may_fetch(2, digest_of(BIG))
    back = BIG[::-1]
    assert world.reply(1, task_id, data=back).size > len(back)
    assert not world.journal.may_fetch(1, digest_of(BIG))
    world.start()
    world.push(1, data=BIG)
    [reply] = world.grid.pull_messages([task_id])
    array = reply.content["a"]["w"]
    assert isinstance(array, StoredArray)
    assert array.data == back


@pytest.mark.parametrize("damage", ["lost", "cut", "spoilt"])
def test_a_reply_that_the_disk_has_lost_is_asked_for_again_at_the_next_start(world, damage):
    [task_id, other] = world.push(1, 2)
    world.reply(1, task_id, data=BIG)
    world.reply(2, other, "whole", data=BIG[::-1])
    path = world.store.path(digest_of(BIG))
    {
        "lost": path.unlink,
        "cut": lambda: os.truncate(path, 100),
        "spoilt": lambda: path.write_bytes(BIG[:-1] + b"?"),
    }[damage]()
    with pytest.raises(StoreError, match=str(path)):
        _ = world.grid.pull_messages([task_id])[0].content["a"]["w"].data
    world.start(groups=())
    assert world.push(1, 2) == [task_id, other]
    assert world.queue.take(1).id == task_id
    assert world.queue.take(2) is None
    assert not world.journal.ledger.uploaded(1, digest_of(BIG))
    assert world.reply(1, task_id, "again", data=BIG).fresh
    assert world.pull(task_id, other) == ["again", "whole"]


@pytest.mark.parametrize("damage", ["cut", "spoilt"])
def test_a_content_that_the_disk_has_damaged_is_no_clients_fault(world, damage):
    [task_id] = world.push(1)
    world.reply(1, task_id, "x" * (2 << 20))
    [path] = world.store.root.glob("??/*")
    path.write_bytes(b"\xff" * (100 if damage == "cut" else path.stat().st_size))
    with pytest.raises(StoreError, match=str(path)):
        world.grid.pull_messages([task_id])


def test_a_round_on_disk_leaves_nothing_behind(world):
    ids = world.push(1, 2, data=BIG)
    for node, task_id in zip((1, 2), ids, strict=True):
        world.reply(node, task_id, data=BIG[node:])
    world.pull(*ids)
    kept = world.store.put(b"an expert")
    world.registry.set_state("expert", kept)
    world.journal.settle("experts/1")
    world.journal.settle("experts/1")
    assert world.store.digests() == {kept}
    assert "no such task" in world.take(1, pb.Reply(task_id=ids[0])).refused


def test_what_another_task_names_is_kept(world):
    [first] = world.push(1, data=BIG)
    [second] = world.push(1, group="experts/2", data=BIG)
    world.reply(1, first)
    world.pull(first)
    world.journal.settle("experts/1")
    assert world.store.get(digest_of(BIG)) == BIG
    assert world.journal.load(second).task_id == second


def test_a_late_reply_is_kept_until_it_was_used(world):
    ids = world.push(1, 2)
    world.reply(1, ids[0])
    world.pull(*ids)
    world.journal.settle("experts/1", late=[ids[1]])
    world.reply(2, ids[1], "late")
    world.push(1, group="experts/2")
    world.journal.settle("experts/1", late=[ids[1]])
    assert world.pull(ids[1]) == ["late"]
    assert world.pull(ids[1]) == []
    world.journal.settle("experts/2")
    assert "no such task" in world.take(2, pb.Reply(task_id=ids[1])).refused


@pytest.mark.parametrize("before", [True, False])
def test_a_late_reply_can_be_pulled_after_a_restart(world, before):
    ids = world.push(1, 2)
    world.reply(1, ids[0])
    world.journal.settle("experts/1", late=[ids[1]])
    if before:
        world.reply(2, ids[1], "late")
    world.start(groups=["experts/1"], late=[ids[1]])
    assert world.pull(*ids) == (["late"] if before else [])
    if not before:
        assert world.queue.take(2).id == ids[1], "it is still wanted"
        world.reply(2, ids[1], "late")
        assert world.pull(*ids) == ["late"]


def test_tasks_of_finished_rounds_are_forgotten_at_the_start(world):
    ids = world.push(1, 2, data=BIG)
    world.reply(1, ids[0])
    world.start(groups=["experts/1"])
    assert world.store.digests() == set()
    assert "no such task" in world.take(2, pb.Reply(task_id=ids[1])).refused


def test_a_task_that_was_given_up_stays_so(world):
    [reply] = world.grid.send_and_receive([asked(1)], timeout=0.01)
    task_id = reply.metadata.reply_to_message_id
    assert "no reply within 0.01 s" in reply.error.reason
    assert world.queue.take_withdrawn(1) == [task_id]
    assert world.reply(1, task_id).refused
    world.start()
    assert world.push(1) == [task_id]
    [again] = world.grid.pull_messages([task_id])
    assert "no reply within 0.01 s" in again.error.reason


def test_after_a_plan_that_failed_its_failures_are_tried_again(world):
    ids = world.push(1, 2)
    world.take(1, pack_failure(ids[0], "out of memory", 2).message)
    world.reply(2, ids[1], "well")
    world.start(retry=True)
    again = world.push(1, 2)
    assert [old == new for old, new in zip(ids, again, strict=True)] == [False, True]
    assert world.queue.take(1).id == again[0]
    assert world.pull(*again) == ["well"]
    world.start()
    assert world.push(1, 2) == again, "and the new id is as good as the old"


def test_a_node_that_left_has_failed_for_good(world):
    [task_id] = world.push(1)
    world.queue.leave(1, "no sign of life")
    [reply] = world.grid.pull_messages([task_id])
    assert reply.error.reason == "no sign of life"
    assert world.reply(1, task_id, "back").refused == "the task is answered already"
    world.start()
    world.push(1)
    [again] = world.grid.pull_messages([task_id])
    assert again.error.reason == "no sign of life"


def test_what_came_before_its_node_was_given_up_counts(world):
    [task_id] = world.push(1)
    world.queue.leave(1, "no sign of life")
    assert world.reply(1, task_id, "in time").fresh
    assert world.pull(task_id) == ["in time"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_task_that_is_kept_waits_for_its_node(world, restarted):
    [task_id] = world.push(1)
    world.grid.keep([task_id])
    if restarted:
        world.start(nodes=())
        world.grid.keep([task_id])
    else:
        world.queue.leave(1, "no sign of life")
    assert list(world.grid.away([task_id])) == [task_id]
    assert world.grid.pull_messages([task_id]) == []
    world.queue.join(1)
    assert world.grid.away([task_id]) == {}
    assert world.queue.take(1).id == task_id
    assert world.reply(1, task_id, "back").fresh
    assert world.pull(task_id) == ["back"]


def test_who_may_not_come_back_is_not_waited_for(world):
    [task_id] = world.push(1)
    world.grid.keep([task_id])
    world.queue.leave(1, "asleep")
    world.queue.leave(1, "revoked", for_good=True)
    [reply] = world.grid.pull_messages([task_id])
    assert reply.error.reason == "revoked"


def test_what_the_strategy_has_given_up_leaves_nothing_behind(world):
    ids = world.push(1, 2, data=BIG)
    world.queue.leave(1, "gone")
    world.pull(ids[1])
    world.journal.settle("experts/1")
    assert world.store.digests() == set()
    assert "no such task" in world.take(1, pb.Reply(task_id=ids[0])).refused
    assert world.take(1, pack_failure(ids[0], "cancelled", 2).message).refused == ""


def test_nobody_waits_for_what_is_not_open(world):
    [done, open_] = world.push(1, 2)
    [question] = world.push(1, group="")
    world.reply(1, done)
    assert world.journal.unwanted([done, open_, question, "?"]) == {done, "?"}


def test_what_cannot_be_encoded_fails_alone(world):
    bad = Message(RecordDict({"c": ConfigRecord({"x": 2**70})}), 1, "train", group_id="g")
    good = asked(2)
    ids = world.grid.push_messages([bad, good])
    [reply] = world.grid.pull_messages(ids)
    assert "cannot be encoded" in reply.error.reason
    assert world.queue.take(2).id == ids[1]


def test_progress_knows_where_it_belongs(world):
    [task_id] = world.push(1)
    letter = world.queue.task(task_id).content
    assert (letter.stage, letter.round) == ("x", 3)
    assert letter.size > 0
    assert len(letter.head.content) == 0


def test_a_finished_plan_leaves_nothing(world):
    world.push(1, 2, data=BIG)
    world.journal.clear()
    assert world.store.digests() == set()
    with pytest.raises(RegistryError, match="not in the journal"):
        world.journal.load("?")


def test_a_blob_that_nobody_names_goes_at_the_next_start(world):
    world.store.put(b"written before a kill")
    [task_id] = world.push(1, data=BIG)
    world.upload(1, digest_of(b"a reply's"), b"a reply's")
    world.start(groups=())
    assert world.store.digests() == {digest_of(BIG), digest_of(b"a reply's")}
    assert world.journal.ledger.uploaded(1, digest_of(b"a reply's"))
    assert world.journal.load(task_id)
