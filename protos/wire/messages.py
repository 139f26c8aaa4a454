"""Converts tasks and replies between Flower messages and the stream's messages."""

from dataclasses import dataclass, field

from flwr.app import Message

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.system.terminal import plain
from fedmore.protos.wire.flower_compat import make_failure, make_reply, make_task
from fedmore.protos.wire.records import Fetch, Payload, pack, unpack

MAX_REASON = 4000
"""Most characters of a failure's reason on the wire."""


@dataclass(frozen=True)
class PackedTask:
    """An encoded task: the message, its blobs, and its payload in bytes."""

    message: pb.Task
    blobs: dict[str, Payload]
    size: int


@dataclass(frozen=True)
class PackedReply:
    """An encoded reply: the message, its blobs, and its payload in bytes."""

    message: pb.Reply
    blobs: dict[str, Payload] = field(default_factory=dict)
    size: int = 0


def pack_task(task: Message) -> PackedTask:
    """Encode an instruction for its node."""
    metadata, packed = task.metadata, pack(task.content)
    message = pb.Task(
        task_id=metadata.message_id,
        run_id=metadata.run_id,
        node_id=metadata.dst_node_id,
        message_type=metadata.message_type,
        group_id=metadata.group_id,
        created_at=metadata.created_at,
        ttl=metadata.ttl,
        content=packed.content,
    )
    return PackedTask(message, packed.blobs, packed.size)


def unpack_task(message: pb.Task, fetch: Fetch, limit: int | None = None) -> Message:
    """Decode an instruction for Flower's ClientApp; `limit` is as in `unpack`."""
    content = unpack(message.content, fetch, limit)
    try:
        return make_task(
            content,
            task_id=message.task_id,
            node_id=message.node_id,
            message_type=message.message_type,
            group_id=message.group_id,
            created_at=message.created_at,
            ttl=message.ttl,
            run_id=message.run_id,
        )
    except ValueError as error:
        raise WireError(f"task {message.task_id!r}: {error}") from error


def pack_reply(task_id: str, reply: Message) -> PackedReply:
    """Encode the ClientApp's reply to the task `task_id`."""
    if reply.has_error():
        return pack_failure(task_id, reply.error.reason or "", reply.error.code)
    packed = pack(reply.content)
    message = pb.Reply(task_id=task_id, content=packed.content)
    return PackedReply(message, packed.blobs, packed.size)


def pack_failure(task_id: str, reason: str, code: int) -> PackedReply:
    """Encode the failure of a task."""
    failure = pb.Failure(code=code, reason=reason[:MAX_REASON])
    return PackedReply(pb.Reply(task_id=task_id, failure=failure), size=failure.ByteSize())


def unpack_reply(
    message: pb.Reply, task: Message, fetch: Fetch, limit: int | None = None
) -> Message:
    """Decode the reply to `task`; only its content or failure is taken from the wire."""
    result = message.WhichOneof("result")
    if result is None:
        raise WireError(f"reply to task {message.task_id!r} has neither content nor failure")
    if result == "failure":
        return make_failure(task, plain(message.failure.reason, MAX_REASON), message.failure.code)
    return make_reply(task, unpack(message.content, fetch, limit))
