"""Full, read-only and damaged disks: clear errors, and nothing that was acknowledged is lost.

The disk is a small tmpfs where mounting is allowed (root, not in every container).
"""

import contextlib
import os
import random
import subprocess
import threading

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedmore.coordinator.rpc.blobs.uploads import Limits
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import RegistryError, StoreError, TransportError
from fedmore.protos.wire.blobs import digest_of
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.strategies.events import Received, Refused

SIZE = 8 << 20
BIG = random.Random(0).randbytes(2 << 20)


class Disk:
    """A disk that can be filled and made room on."""

    def __init__(self, folder):
        self._folder = folder
        self._filler = folder / "filler"

    def fill(self, leave=0):
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        if leave:
            os.truncate(self._filler, self._filler.stat().st_size - leave)

    def make_room(self):
        self._filler.unlink()

    def write_protect(self):
        subprocess.run(["mount", "-o", "remount,ro", str(self._folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    """Mounted on the folder of the test, before the federation is made there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here; test_disk_injected has the same errors")
    yield Disk(tmp_path)
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def records(data):
    arrays = ArrayRecord({"w": Array("u1", (len(data),), "raw", data)})
    return RecordDict({"a": arrays, "c": ConfigRecord({"n": 1})})


class Asked:
    """A client that has a task and answers, with a large array or a small one, when it may."""

    def __init__(self, federation, data):
        self.federation, self.calls = federation, 0
        self.may, self.asked = threading.Event(), threading.Event()

        def handler(message):
            self.calls += 1
            self.asked.set()
            assert self.may.wait(30)
            return make_reply(message, records(data))

        federation.join("ada", handler, patience_s=60)
        [node] = federation.grid.get_node_ids()
        self.grid = federation.grid
        task = Message(records(b"task"), node, "train", group_id="experts/1")
        [self.task_id] = self.grid.push_messages([task])
        assert self.asked.wait(20)

    def reply(self, within_s=60):
        assert self.federation.queue.wait([self.task_id], within_s)
        [reply] = self.grid.pull_messages([self.task_id])
        return reply


@pytest.mark.parametrize("in_the_middle", [False, True])
def test_an_upload_waits_for_room(disk, federation, caplog, in_the_middle):
    free = -SIZE if in_the_middle else 0
    federation.server._parts.uploads.limits = Limits(free=free)
    asked = Asked(federation, BIG)
    disk.fill(leave=1 << 20)
    asked.may.set()
    words = "No space left" if in_the_middle else "no room for"
    federation.eventually(lambda: words in caplog.text, 30)
    assert federation.of(Received) == []
    assert federation.queue.task(asked.task_id) is not None
    disk.make_room()
    assert asked.reply().content["a"]["w"].data == BIG
    assert asked.calls == 1


def test_a_reply_waits_for_room_in_the_database(disk, federation):
    asked = Asked(federation, random.Random(1).randbytes(60_000))
    disk.fill()
    asked.may.set()
    refused = federation.eventually(lambda: federation.of(Refused), 30)
    assert "cannot be kept now" in refused[0].reason
    assert federation.queue.task(asked.task_id) is not None
    disk.make_room()
    assert asked.reply().has_content()
    assert asked.calls == 1


def test_a_disk_that_may_not_be_written_to_is_named(disk, tmp_path):
    store = Store(tmp_path / "blobs")
    kept = store.put(b"before")
    Registry.open(tmp_path).close()
    disk.write_protect()
    with pytest.raises(StoreError, match="Read-only file system"):
        store.put(b"after")
    with pytest.raises(StoreError, match="Read-only file system"):
        store.delete(kept)
    with pytest.raises(RegistryError, match=r"registry\.db: .*(readonly|unable to open)"):
        Registry.open(tmp_path).set_state("x", 1)
    assert store.get(kept) == b"before"


def test_what_is_asked_of_clients_needs_room_too(disk, federation):
    identity = federation.enrol("ada")
    grid = federation.grid  # before a message can be made
    federation.queue.expect([identity.node_id])
    disk.fill(leave=1 << 20)
    task = Message(records(BIG), identity.node_id, "train", group_id="experts/1")
    with pytest.raises(StoreError, match="No space left"):
        grid.push_messages([task])
    disk.make_room()
    [task_id] = grid.push_messages([task])
    assert federation.journal.load(task_id).task_id == task_id


@pytest.fixture
def answered(federation):
    """A task whose reply, with a large array, is in the journal and not pulled yet."""
    asked = Asked(federation, BIG)
    asked.may.set()
    federation.eventually(lambda: federation.of(Received), 30)
    return asked, federation.store.path(digest_of(BIG))


def test_a_damaged_array_is_found_when_it_is_used(answered):
    asked, path = answered
    reply = asked.reply()
    path.write_bytes(BIG[:-1] + b"?")
    with pytest.raises(StoreError, match=f"{path}: damaged"):
        _ = reply.content["a"]["w"].data


@pytest.mark.parametrize("left", [None, 100])
def test_a_lost_or_truncated_array_is_the_disks_fault_and_no_clients(answered, left):
    asked, path = answered
    path.unlink()
    if left is not None:
        path.write_bytes(BIG[:left])
    says = "damaged, 100 bytes of" if left else "cannot be read"
    with pytest.raises(StoreError, match=f"{path}: {says}"):
        asked.reply()


def test_what_was_lost_can_be_uploaded_again(federation, answered):
    _, path = answered
    path.unlink()
    node = federation.registry.members()[0].node_id
    assert not federation.journal.ledger.uploaded(node, digest_of(BIG))


def test_disk_injected_where_nothing_can_be_mounted(federation, monkeypatch, caplog):
    """The second best: the system call says what it would on a full disk."""
    real, identity = os.fsync, federation.enrol("ada")
    federation.ask(identity.node_id)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left.*make room"):
        federation.store.put(b"x")
    with identity.link() as link:
        with pytest.raises(TransportError, match=r"cannot keep the upload now.*No space left"):
            link.upload(digest_of(b"y"), b"y")
        assert federation.store.digests() == set()
        monkeypatch.setattr(os, "fsync", real)
        link.upload(digest_of(b"y"), b"y")
    assert federation.store.get(digest_of(b"y")) == b"y"
