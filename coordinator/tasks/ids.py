"""Messages on their way into the journal: packed, with an id that follows from what they say."""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import make_task, stamp
from fedmore.protos.wire.messages import pack_task
from fedmore.protos.wire.payloads import Payload
from fedmore.protos.wire.status import describe
from fedmore.strategies.events import stage_and_round


@dataclass(frozen=True)
class TaskHeader:
    """What is kept in memory of a task: stage, round, and the message without its content."""

    head: Message
    stage: str = ""
    round: int = 0
    size: int = 0


@dataclass(frozen=True)
class EncodedTask:
    """A task ready for the journal; one without a group is a query. `error`: it cannot travel."""

    task: pb.Task
    letter: TaskHeader
    blobs: dict[str, Payload] = field(default_factory=dict)
    error: str = ""


class TaskIdAllocator:
    """Gives ids to messages; the same question to the same node once more gets another id.

    The ids are the same in every process. Ids of `retired` tasks are passed over. Messages that
    name no group belong to `group`.
    """

    def __init__(self, group: str = "", retired: Collection[str] = ()) -> None:
        self._group = group
        self._retired = frozenset(retired)
        self._asked: Counter[str] = Counter()

    def pack(self, message: Message) -> EncodedTask:
        """Stamp and encode `message`."""
        stage, number = stage_and_round(message)
        try:
            packed = pack_task(message)
        except WireError as error:
            stamp(message, uuid.uuid4().hex)
            metadata = message.metadata
            task = pb.Task(task_id=metadata.message_id, node_id=metadata.dst_node_id)
            return EncodedTask(task, TaskHeader(_head(message)), error=describe(error))
        task = packed.message
        task.group_id = task.group_id or self._group
        task.task_id = task.task_id or self._id(task)
        stamp(message, task.task_id)
        return EncodedTask(
            task, TaskHeader(_head(message), stage, number, packed.size), packed.blobs
        )

    def _id(self, task: pb.Task) -> str:
        if not task.group_id:
            return uuid.uuid4().hex
        content = hashlib.sha256(task.content.SerializeToString(deterministic=True)).hexdigest()
        asked = [task.run_id, task.group_id, task.message_type, task.node_id, content]
        key = json.dumps(asked)
        while True:
            made = hashlib.sha256(f"{key}{self._asked[key]}".encode()).hexdigest()
            self._asked[key] += 1
            if made not in self._retired:
                return made


def head_of(packed: bytes) -> Message:
    """A task from the journal as a message without its content."""
    task = pb.Task.FromString(packed)
    return make_task(
        RecordDict(),
        task_id=task.task_id,
        node_id=task.node_id,
        message_type=task.message_type,
        group_id=task.group_id,
        created_at=task.created_at,
        ttl=task.ttl,
        run_id=task.run_id,
    )


def _head(message: Message) -> Message:
    return Message(metadata=message.metadata, content=RecordDict())  # type: ignore[call-overload,no-any-return]
