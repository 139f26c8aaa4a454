import pytest
from flwr.app import ConfigRecord, RecordDict

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import make_failure, make_reply, make_task
from fedmore.protos.wire.messages import (
    MAX_REASON,
    pack_reply,
    pack_task,
    unpack_reply,
    unpack_task,
)


def make():
    content = RecordDict({"config": ConfigRecord({"lr": 0.1})})
    return make_task(content, task_id="t", node_id=7, message_type="train.experts", group_id="g")


def no_blobs(digest, size):
    raise AssertionError("no blob expected")


def test_a_task_arrives_as_it_was_sent():
    task = make()
    arrived = unpack_task(pb.Task.FromString(pack_task(task).message.SerializeToString()), no_blobs)
    assert arrived.metadata == task.metadata
    assert arrived.content == task.content


def test_a_reply_arrives_with_the_metadata_of_our_own_task():
    task = make()
    sent = pack_reply("t", make_reply(task, RecordDict({"c": ConfigRecord({"x": True})})))
    arrived = unpack_reply(sent.message, task, no_blobs)
    assert arrived.content["c"]["x"] is True
    assert arrived.metadata.reply_to_message_id == "t"
    assert arrived.metadata.src_node_id == 7


def test_a_failure_arrives_with_code_and_a_reason_of_bounded_length():
    task = make()
    sent = pack_reply("t", make_failure(task, "x" * 2 * MAX_REASON, code=6))
    arrived = unpack_reply(sent.message, task, no_blobs)
    assert arrived.error.code == 6
    assert arrived.error.reason == "x" * MAX_REASON


def test_a_reply_without_a_result_is_refused():
    with pytest.raises(WireError, match="neither content nor failure"):
        unpack_reply(pb.Reply(task_id="t"), make(), no_blobs)


def test_a_task_of_unknown_type_is_refused():
    packed = pack_task(make()).message
    packed.message_type = "dance"
    with pytest.raises(WireError, match="dance"):
        unpack_task(packed, no_blobs)
