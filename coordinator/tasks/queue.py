"""Tasks on their way to the nodes and answers on their way back, in every engine.

The queue is thread-safe and in memory. It does not know what a task says or how it travels:
contents belong to its backend. A task is *open* from `push` to its first answer, failure or
withdrawal, and later answers are ignored. A task may therefore be handed out and answered any
number of times and counts once.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from fedmore.coordinator.tasks.open_task import Answer, Failed, Task, absent
from fedmore.protos.wire.flower_compat import NODE_UNAVAILABLE, REPLY_UNAVAILABLE

__all__ = ["Answer", "Failed", "Task", "TaskQueue", "absent"]

Listener = Callable[[int], None]


class TaskQueue:
    """Keeps the tasks of every node that has joined; `subscribe` to hear of work for a node."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._nodes: dict[int, str] = {}  # with the process that each is
        self._expected: set[int] = set()
        self._gone: dict[int, str] = {}
        self._kept: set[str] = set()
        self._open: dict[str, Task] = {}
        self._given: dict[str, str] = {}  # to which process a task was handed out first
        self._waiting: dict[int, list[str]] = {}
        self._withdrawn: dict[int, list[str]] = {}
        self._answers: dict[str, tuple[Task, Answer]] = {}
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(node_id)`, from any thread, when there is something new for a node."""
        self._listeners.append(listener)

    def expect(self, node_ids: Iterable[int]) -> None:
        """Let tasks of these nodes wait until each node `join`s, or `leave`s for good."""
        with self._changed:
            self._expected |= set(node_ids) - self._nodes.keys()

    def expected(self) -> list[int]:
        """The nodes that are not back yet, sorted."""
        with self._changed:
            return sorted(self._expected)

    def join(self, node_id: int, process: str = "") -> None:
        """Mark a node as connected; if it joins again, its open tasks are handed out once more.

        `process` differs after the node's program was started again.
        """
        with self._changed:
            self._nodes[node_id] = process
            self._expected.discard(node_id)
            self._gone.pop(node_id, None)
            open_ = [key for key, task in self._open.items() if task.node_id == node_id]
            self._waiting[node_id] = open_
            self._withdrawn[node_id] = []
            self._changed.notify_all()
        self._tell(node_id)

    def leave(self, node_id: int, reason: str, for_good: bool = False) -> None:
        """Mark a node as gone: its open tasks fail with `reason`, except those that are kept.

        With `for_good` the node may not come back, and those that are kept fail too.
        """
        with self._changed:
            self._nodes.pop(node_id, None)
            self._expected.discard(node_id)
            self._waiting.pop(node_id, None)
            self._withdrawn.pop(node_id, None)
            self._gone[node_id] = reason
            for task in list(self._open.values()):
                if task.node_id == node_id and (for_good or task.id not in self._kept):
                    self._close(task.id, Failed(reason, NODE_UNAVAILABLE))
            self._changed.notify_all()

    def keep(self, task_ids: Iterable[str]) -> None:
        """Keep these tasks open while their nodes are away, so that a later answer counts."""
        with self._changed:
            self._kept |= set(task_ids) - self._answers.keys()

    def away(self, task_ids: Iterable[str]) -> dict[str, str]:
        """Those of `task_ids` that are open while their nodes are away, each with the reason."""
        with self._changed:
            tasks = [self._open[i] for i in task_ids if i in self._open]
            away = {t.id: t.node_id for t in tasks if not self._is_near(t.node_id)}
            return {i: self._gone.get(node, absent(node)) for i, node in away.items()}

    def interrupted(self, task_ids: Iterable[str]) -> list[str]:
        """Those that are open and were handed out to an earlier process of a node now here."""
        with self._changed:
            given = [self._open[i] for i in task_ids if i in self._open and i in self._given]
            here = [task for task in given if task.node_id in self._nodes]
            return [task.id for task in here if self._given[task.id] != self._nodes[task.node_id]]

    def nodes(self) -> list[int]:
        """The nodes that are there, sorted."""
        with self._changed:
            return sorted(self._nodes)

    def push(
        self, tasks: Iterable[Task], answers: Callable[[], Mapping[str, Answer]] = dict
    ) -> None:
        """Open tasks; one for a node that is not connected or expected fails, unless it is kept.

        `answers` gives the answers that are known already. It is called while the queue is locked:
        an answer is either among them or comes by `reply`, and no answered task is handed out.
        """
        with self._changed:
            fresh = [t for t in tasks if t.id not in self._open and t.id not in self._answers]
            self._open |= {task.id: task for task in fresh}
            for task_id, answer in answers().items():
                if task_id in self._open:
                    self._close(task_id, answer)
            for task in fresh:
                if task.id in self._open:
                    self._queue(task)
            self._changed.notify_all()
        for node_id in dict.fromkeys(task.node_id for task in fresh):
            self._tell(node_id)

    def take(self, node_id: int, timeout: float | None = 0.0) -> Task | None:
        """Return the next task for a node, or None after `timeout` seconds or if the node has left.

        A `timeout` of None waits without a limit.
        """

        def ready() -> bool:
            return bool(self._waiting.get(node_id)) or node_id not in self._nodes

        with self._changed:
            self._changed.wait_for(ready, timeout)
            waiting = self._waiting.get(node_id)
            if not waiting:
                return None
            task = self._open[waiting.pop(0)]
            self._given.setdefault(task.id, self._nodes[node_id])
            return task

    def again(self, task_id: str) -> None:
        """Hand a task out once more if it is open and its node is connected."""
        with self._changed:
            task = self._open.get(task_id)
            if task is None or task_id in self._waiting.get(task.node_id, [task_id]):
                return
            self._waiting[task.node_id].append(task_id)
        self._tell(task.node_id)

    def take_withdrawn(self, node_id: int) -> list[str]:
        """Ids of tasks that the node may stop working on; each is given once."""
        with self._changed:
            withdrawn = self._withdrawn.get(node_id)
            if not withdrawn:
                return []
            self._withdrawn[node_id] = []
            return withdrawn

    def task(self, task_id: str) -> Task | None:
        """The open task of this id, or None when it is answered, withdrawn or unknown."""
        with self._changed:
            return self._open.get(task_id)

    def unknown(self, task_ids: Iterable[str]) -> list[str]:
        """Those of `task_ids` that are neither open nor answered here."""
        with self._changed:
            return [i for i in task_ids if i not in self._open and i not in self._answers]

    def reply(self, task_id: str, answer: Answer) -> bool:
        """Accept an answer; returns False, and changes nothing, if the task is not open."""
        with self._changed:
            if task_id not in self._open:
                return False
            self._close(task_id, answer)
            self._changed.notify_all()
            return True

    def fail(self, task_id: str, reason: str, code: int = REPLY_UNAVAILABLE) -> bool:
        """Answer a task with a failure; False when it is not open."""
        return self.reply(task_id, Failed(reason, code))

    def withdraw(self, task_id: str, reason: str) -> None:
        """Answer a task with a failure and tell its node to stop."""
        with self._changed:
            task = self._open.get(task_id)
            if task is None:
                return
            self._close(task_id, Failed(reason))
            if task.node_id in self._nodes:
                self._withdrawn[task.node_id].append(task_id)
            self._changed.notify_all()
        self._tell(task.node_id)

    def collect(self, task_ids: Iterable[str]) -> list[tuple[Task, Answer]]:
        """Return the answers to `task_ids` that have arrived, in that order; each is given once."""
        with self._changed:
            return [self._answers.pop(key) for key in task_ids if key in self._answers]

    def wait(self, task_ids: Collection[str], timeout: float | None) -> bool:
        """Whether every one of `task_ids` is answered within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open.keys().isdisjoint(task_ids), timeout)

    def wait_for_nodes(self, count: int, timeout: float | None = None) -> bool:
        """Whether `count` nodes are there within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._nodes) >= count, timeout)

    def wait_for_expected(self, timeout: float) -> bool:
        """Whether every expected node has come, or is given up, within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._expected, timeout)

    def _queue(self, task: Task) -> None:
        if task.node_id in self._nodes:
            self._waiting[task.node_id].append(task.id)
        elif not self._is_near(task.node_id) and task.id not in self._kept:
            self._close(task.id, Failed(absent(task.node_id), NODE_UNAVAILABLE))

    def _is_near(self, node_id: int) -> bool:
        return node_id in self._nodes or node_id in self._expected

    def _close(self, task_id: str, answer: Answer) -> None:
        task = self._open.pop(task_id)
        self._kept.discard(task_id)
        self._given.pop(task_id, None)
        waiting = self._waiting.get(task.node_id, [])
        if task_id in waiting:
            waiting.remove(task_id)
        self._answers[task_id] = (task, answer)

    def _tell(self, node_id: int) -> None:
        for listener in self._listeners:
            listener(node_id)
