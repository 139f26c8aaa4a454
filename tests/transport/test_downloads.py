"""A member may download what its open tasks name."""

import random

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmore.experts.errors import RegistryError
from fedmore.protos.wire.blobs import CHUNK, digest_of

BIG = random.Random(0).randbytes(2 * CHUNK + 5)


@pytest.fixture(params=["", "experts/1"])
def asked(request, federation):
    """A link of somebody who has an open task that names BIG; a query, and one in the journal."""
    identity = federation.enrol("ada")
    federation.queue.expect([identity.node_id])
    grid = federation.grid  # before a message can be made
    content = RecordDict({"arrays": ArrayRecord({"w": Array("u1", (len(BIG),), "raw", BIG)})})
    task = Message(content, identity.node_id, "train", group_id=request.param)
    [task_id] = grid.push_messages([task])
    with identity.link() as link:
        yield link, task_id


def test_from_any_offset(asked):
    link, _ = asked
    for offset in (0, 1, CHUNK, len(BIG) - 1, len(BIG)):
        assert b"".join(link.download(digest_of(BIG), offset)) == BIG[offset:]


def test_not_what_other_tasks_name(federation, asked):
    link, _ = asked
    digest = federation.store.put(b"another client's update")
    with pytest.raises(RegistryError, match="no task of yours"):
        list(link.download(digest, 0))
    refused = pytest.raises(RegistryError, match="no task of yours")
    with federation.enrol("bob").link() as other, refused:
        list(other.download(digest_of(BIG), 0))


def test_not_any_more_once_the_task_is_withdrawn(federation, asked):
    link, task_id = asked
    grid = federation.grid
    grid.withdraw([task_id], "enough")
    grid.pull_messages([task_id])
    with pytest.raises(RegistryError, match="no task of yours"):
        list(link.download(digest_of(BIG), 0))


def test_what_the_disk_has_lost_is_an_error(federation, asked):
    federation.store.path(digest_of(BIG)).unlink()
    with pytest.raises(RegistryError, match="missing"):
        list(asked[0].download(digest_of(BIG), 0))
