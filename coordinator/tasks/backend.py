"""What carries a grid's messages: the seam between Flower's messages and a queue's tasks."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from flwr.app import Message

from fedmore.coordinator.tasks.queue import Answer, Failed, Task
from fedmore.protos.wire.flower_compat import make_failure, stamp


class TaskBackend(Protocol):
    """Keeps the contents of tasks and answers, to which a queue holds only references."""

    def send(self, messages: Sequence[Message]) -> list[Task]:
        """Keep `messages` and give each the id of its task; the tasks come in the same order."""
        ...

    def recall(self, task_ids: Collection[str]) -> list[Task]:
        """Return the tasks of an earlier process that are still needed, in any order."""
        ...

    def answers(self, task_ids: Collection[str]) -> Mapping[str, Answer]:
        """The answers to `task_ids` that are there already."""
        ...

    def close(self, task_ids: Collection[str], failed: Failed) -> Collection[str]:
        """Answer tasks with a failure; returns the ids of those that had no answer yet."""
        ...

    def receive(self, task: Task, answer: Answer) -> Message:
        """The reply as the strategy gets it; called once for a task."""
        ...


class InMemoryBackend:
    """Keeps everything in memory alone: the content of a task, or of an answer, is the message."""

    def send(self, messages: Sequence[Message]) -> list[Task]:
        """Tasks with the messages as they are."""
        tasks = []
        for message in messages:
            stamp(message, message.metadata.message_id or uuid.uuid4().hex)
            metadata = message.metadata
            tasks.append(Task(metadata.message_id, metadata.dst_node_id, message))
        return tasks

    def recall(self, task_ids: Collection[str]) -> list[Task]:
        """None: there was no earlier."""
        return []

    def answers(self, task_ids: Collection[str]) -> Mapping[str, Answer]:
        """None: answers go straight to the queue."""
        return {}

    def close(self, task_ids: Collection[str], failed: Failed) -> Collection[str]:
        """All of them, as far as is known here."""
        return task_ids

    def receive(self, task: Task, answer: Answer) -> Message:
        """The message that was the answer, or an Error."""
        if isinstance(answer, Message):
            return answer
        assert isinstance(answer, Failed)
        return make_failure(task.content, answer.reason, answer.code)
