"""Flower's Grid over a `TaskQueue`: what a strategy talks to, in every engine of ours."""

from collections.abc import Callable, Collection, Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.coordinator.tasks.backend import InMemoryBackend, TaskBackend
from fedmore.coordinator.tasks.queue import Failed, TaskQueue
from fedmore.protos.wire.flower_compat import RUN, EmptyRun, RunType, identify


class TaskGrid(Grid):
    """Waits for replies for a limited time, and gives an Error for a node that left or was late.

    Replies come in the order of the messages, so an aggregate does not depend on which node was
    faster. With a `Journal` as its backend everything is on disk. A program that was killed and
    pushes the same messages again gets the replies that had arrived, and continues with the open
    tasks. A late reply can be pulled by its id in a later round, also after a restart. `names`
    gives the member behind a node id.
    """

    def __init__(
        self,
        queue: TaskQueue,
        backend: TaskBackend | None = None,
        run_id: int = RUN,
        names: Callable[[int], str] = "node {}".format,
    ) -> None:
        self.queue = queue
        self.backend: TaskBackend = backend or InMemoryBackend()
        self._run = EmptyRun(run_id)
        self._names = names
        identify(run_id)

    def set_run(self, run: RunType) -> None:
        """Set the Flower run that messages belong to."""
        self._run = run
        identify(run.run_id)

    @property
    def run(self) -> RunType:
        """The run; a federation has one."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's older way of `Message(content, dst_node_id, message_type)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def name_of(self, node_id: int) -> str:
        """The name of the member behind a node id, for messages to people."""
        return self._names(node_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there, sorted."""
        return self.queue.nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; each gets its id, and the ids are returned."""
        tasks = self.backend.send(list(messages))
        task_ids = [task.id for task in tasks]
        self.queue.push(tasks, lambda: self.backend.answers(task_ids))
        return task_ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come by now; each is given once."""
        task_ids = list(message_ids)
        self._recall(task_ids)
        return [self.backend.receive(*found) for found in self.queue.collect(task_ids)]

    def keep(self, message_ids: Iterable[str]) -> None:
        """Keep tasks open while their nodes are away, since a node may reply when it is back."""
        task_ids = list(message_ids)
        self.queue.keep(task_ids)
        self._recall(task_ids)

    def away(self, message_ids: Iterable[str]) -> Mapping[str, str]:
        """The open tasks among them whose nodes are away, and why."""
        return self.queue.away(message_ids)

    def interrupted(self, message_ids: Iterable[str]) -> Collection[str]:
        """Those that are open and were given to an earlier process of a node that is now here."""
        return self.queue.interrupted(message_ids)

    def _recall(self, task_ids: Collection[str]) -> None:
        if unknown := self.queue.unknown(task_ids):
            tasks = self.backend.recall(unknown)
            self.queue.push(tasks, lambda: self.backend.answers([task.id for task in tasks]))

    def withdraw(self, message_ids: Iterable[str], reason: str) -> None:
        """Answer tasks with an Error and tell their nodes to stop; later answers are dropped.

        A task that is answered already keeps its answer.
        """
        task_ids = [i for i in message_ids if self.queue.task(i) is not None]
        closed = set(self.backend.close(task_ids, Failed(reason)))
        for task_id in task_ids:
            if task_id in closed:
                self.queue.withdraw(task_id, reason)
        for task_id, answer in self.backend.answers(set(task_ids) - closed).items():
            self.queue.reply(task_id, answer)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """One reply for each message; an Error for what was not answered in `timeout` seconds."""
        task_ids = list(self.push_messages(messages))
        if not self.queue.wait(task_ids, timeout):
            self.withdraw(task_ids, f"no reply within {timeout:g} s")
        return self.pull_messages(task_ids)
