"""Tasks on their way to the nodes and replies on their way back: the heart of every engine.

Thread-safe and in memory; knows nothing of how a message travels. A task is *open* from `push` to
the first reply, failure or withdrawal; what comes later for it is ignored, so a task may be handed
out and answered any number of times and counts once.
"""

import threading
import uuid
from collections.abc import Callable, Collection, Iterable

from flwr.app import Message

from fedmore.protos.flower import NODE_UNAVAILABLE, REPLY_UNAVAILABLE, make_failure, stamp

Listener = Callable[[int], None]


class Mailbox:
    """One box per node that has joined; `subscribe` to hear of work for a node."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._nodes: dict[int, str | None] = {}
        self._open: dict[str, Message] = {}
        self._waiting: dict[int, list[str]] = {}
        self._withdrawn: dict[int, list[str]] = {}
        self._replies: dict[str, Message] = {}
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(node_id)`, from any thread, when there is something new for a node."""
        self._listeners.append(listener)

    def join(self, node_id: int) -> None:
        """The node is there. Joining again hands its open tasks out once more."""
        with self._changed:
            self._nodes[node_id] = None
            self._waiting[node_id] = [
                key for key, task in self._open.items() if task.metadata.dst_node_id == node_id
            ]
            self._withdrawn[node_id] = []
            self._changed.notify_all()
        self._tell(node_id)

    def leave(self, node_id: int, reason: str) -> None:
        """The node is gone for good: each of its open tasks fails with `reason`."""
        with self._changed:
            self._nodes.pop(node_id, None)
            self._waiting.pop(node_id, None)
            self._withdrawn.pop(node_id, None)
            for task in list(self._open.values()):
                if task.metadata.dst_node_id == node_id:
                    self._close(make_failure(task, reason, NODE_UNAVAILABLE))
            self._changed.notify_all()

    def nodes(self) -> list[int]:
        """The nodes that are there, sorted."""
        with self._changed:
            return sorted(self._nodes)

    def push(self, message: Message) -> str:
        """Queue `message` and return its id; a node that is not there answers with an Error."""
        task_id = message.metadata.message_id or uuid.uuid4().hex
        node_id = message.metadata.dst_node_id
        stamp(message, task_id)
        with self._changed:
            if task_id in self._open or task_id in self._replies:
                return task_id
            self._open[task_id] = message
            if node_id in self._nodes:
                self._waiting[node_id].append(task_id)
            else:
                reason = f"node {node_id} is not connected"
                self._close(make_failure(message, reason, NODE_UNAVAILABLE))
            self._changed.notify_all()
        self._tell(node_id)
        return task_id

    def take(self, node_id: int, timeout: float | None = 0.0) -> Message | None:
        """The next task for a node; None when none comes in `timeout` seconds or it has left.

        A `timeout` of None waits for as long as it takes.
        """

        def ready() -> bool:
            return bool(self._waiting.get(node_id)) or node_id not in self._nodes

        with self._changed:
            self._changed.wait_for(ready, timeout)
            waiting = self._waiting.get(node_id)
            return self._open[waiting.pop(0)] if waiting else None

    def take_withdrawn(self, node_id: int) -> list[str]:
        """Ids of tasks that the node may stop working on; each is given once."""
        with self._changed:
            withdrawn = self._withdrawn.get(node_id)
            if not withdrawn:
                return []
            self._withdrawn[node_id] = []
            return withdrawn

    def task(self, task_id: str) -> Message | None:
        """The open task of this id, or None when it is answered, withdrawn or unknown."""
        with self._changed:
            return self._open.get(task_id)

    def reply(self, message: Message) -> bool:
        """Take a reply; False when its task is not open, in which case nothing changes."""
        with self._changed:
            if message.metadata.reply_to_message_id not in self._open:
                return False
            self._close(message)
            self._changed.notify_all()
            return True

    def fail(self, task_id: str, reason: str, code: int = REPLY_UNAVAILABLE) -> bool:
        """Answer a task with an Error; False when it is not open."""
        task = self.task(task_id)
        return task is not None and self.reply(make_failure(task, reason, code))

    def withdraw(self, task_id: str, reason: str) -> None:
        """Answer a task with an Error and tell its node to stop."""
        task = self.task(task_id)
        if task is None or not self.fail(task_id, reason):
            return
        node_id = task.metadata.dst_node_id
        with self._changed:
            if node_id in self._nodes:
                self._withdrawn[node_id].append(task_id)
        self._tell(node_id)

    def collect(self, task_ids: Iterable[str]) -> list[Message]:
        """The replies that are there for `task_ids`, in that order; each is given once."""
        with self._changed:
            return [self._replies.pop(key) for key in task_ids if key in self._replies]

    def wait(self, task_ids: Collection[str], timeout: float | None) -> bool:
        """Whether every one of `task_ids` is answered within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open.keys().isdisjoint(task_ids), timeout)

    def wait_for_nodes(self, count: int, timeout: float | None = None) -> bool:
        """Whether `count` nodes are there within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._nodes) >= count, timeout)

    def _close(self, reply: Message) -> None:
        task_id = reply.metadata.reply_to_message_id
        task = self._open.pop(task_id)
        waiting = self._waiting.get(task.metadata.dst_node_id, [])
        if task_id in waiting:
            waiting.remove(task_id)
        self._replies[task_id] = reply

    def _tell(self, node_id: int) -> None:
        for listener in self._listeners:
            listener(node_id)
