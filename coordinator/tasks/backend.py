"""What carries a grid's messages: the seam between Flower's messages and a mailbox's tasks."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from flwr.app import Message

from fedmore.coordinator.tasks.queue import Answer, Failed, Task
from fedmore.protos.wire.flower_compat import make_failure, stamp


class TaskBackend(Protocol):
    """Keeps the contents of tasks and answers; a mailbox holds only references to them."""

    def send(self, messages: Sequence[Message]) -> list[Task]:
        """Keep `messages` and stamp each with its task's id, in their order."""
        ...

    def recall(self, task_ids: Collection[str]) -> list[Task]:
        """Tasks of earlier (before a restart) that are still of use, in any order."""
        ...

    def answers(self, task_ids: Collection[str]) -> Mapping[str, Answer]:
        """The answers to `task_ids` that are there already."""
        ...

    def close(self, task_ids: Collection[str], failed: Failed) -> Collection[str]:
        """Answer tasks with a failure; the ids of those that had no answer yet."""
        ...

    def receive(self, task: Task, answer: Answer) -> Message:
        """The reply as the strategy gets it; called once for a task."""
        ...


class InMemoryBackend:
    """Keeps nothing that survives: a task's content is the message, and so is its answer's."""

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
        """None: answers go straight to the mailbox."""
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
