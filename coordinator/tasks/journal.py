"""The journal: every task and its reply is on disk before anybody is told of it.

A task's id follows from what is asked of which node (`ids`). A coordinator that was killed and
works through its plan again therefore finds its tasks here. An answered task is answered at once,
and an open one continues. Messages without a group are queries, which are kept in memory only.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from flwr.app import Message
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.database import Database
from fedmore.coordinator.store.journal_models import BlobRecord, TaskRecord
from fedmore.coordinator.store.models import now
from fedmore.coordinator.tasks.blob_references import BlobReferences, live
from fedmore.coordinator.tasks.disk_reclaim import Reclaimer
from fedmore.coordinator.tasks.ephemeral import Queries
from fedmore.coordinator.tasks.ids import EncodedTask, TaskHeader, TaskIdAllocator, head_of
from fedmore.coordinator.tasks.queue import Answer, Failed, Task
from fedmore.coordinator.tasks.replies import ReplyAcceptor, ReplyOutcome, content_of
from fedmore.experts.errors import RegistryError, StoreError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import make_failure
from fedmore.protos.wire.messages import pack_failure, unpack_reply
from fedmore.protos.wire.payloads import Payload, size_of
from fedmore.protos.wire.records import MAX_CONTENT, Fetch

__all__ = ["Journal", "ReplyOutcome"]

HERE = "in the journal"
"""The answer that a queue holds for a reply that is on disk."""


class Journal:
    """A backend (`fedmore.coordinator.tasks.backend`) for a `TaskGrid`; used from any thread.

    `registered` gives the digests that the registry refers to. Messages without a group, such as
    those of a foreign app, belong to `group` if that is not empty. A reply has at most
    `max_content` bytes beside its large arrays.
    """

    def __init__(
        self,
        database: Database,
        store: Store,
        registered: Callable[[], Collection[str]] = frozenset,
        group: str = "",
        max_content: int = MAX_CONTENT,
    ) -> None:
        self.ledger = BlobReferences(database, store, registered)
        self.reclaimer = Reclaimer(database, self.ledger, lambda: live(database, registered))
        self._reading = threading.Lock()
        self._database = database
        self._queries = Queries()
        self._intake = ReplyAcceptor(database, self.ledger, self._queries, max_content)
        self._group, self._max_content = group, max_content
        self._unsendable: dict[str, Failed] = {}
        self._unknown: set[str] = set()
        self._pulled: set[str] = set()
        self._settled: set[str] = set()
        self._addresser = TaskIdAllocator(group, self._ids(TaskRecord.retired.is_(True)))

    def send(self, messages: Sequence[Message]) -> list[Task]:
        """Keep `messages` in one transaction, their blobs before it; each message gets its id.

        A message that cannot be encoded is answered with its failure. Raises `RegistryError` if the
        disk cannot store them.
        """
        with self.ledger.files:
            posted = [self._pack(message) for message in messages]
            lasting = {p.task.task_id: p for p in posted if p.task.group_id and not p.error}
            if lasting:
                with self._database.session(write=True) as session:
                    _add(session, lasting)
        return [Task(p.task.task_id, p.task.node_id, p.letter) for p in posted]

    def recall(self, task_ids: Collection[str]) -> list[Task]:
        """Tasks of an earlier process that may still be of use: open, or answered late."""
        wanted = set(task_ids) - self._unknown - self._pulled
        if not wanted:
            return []
        with self._database.session() as session:
            rows = session.scalars(select(TaskRecord).where(TaskRecord.id.in_(wanted)))
            tasks = [Task(row.id, row.node_id, TaskHeader(head_of(row.task))) for row in rows]
        self._unknown |= wanted - {task.id for task in tasks}
        return tasks

    def answers(self, task_ids: Collection[str]) -> Mapping[str, Answer]:
        """Those of `task_ids` that are answered."""
        here = TaskRecord.id.in_(task_ids), TaskRecord.reply.is_not(None)
        found: dict[str, Answer] = dict.fromkeys(self._ids(*here), HERE)
        return found | {i: self._unsendable.pop(i) for i in task_ids if i in self._unsendable}

    def close(self, task_ids: Collection[str], failed: Failed) -> Collection[str]:
        """Answer open tasks with a final failure; returns the ids of those that were open."""
        queries = {i for i in task_ids if (q := self._queries.get(i)) and q.reply is None}
        for task_id in queries:
            self._queries.pop(task_id)
        open_ = TaskRecord.id.in_(set(task_ids) - queries), TaskRecord.reply.is_(None)
        closed = set()
        with self._database.session(write=True) as session:
            for row in session.scalars(select(TaskRecord).where(*open_)):
                reply = pack_failure(row.id, failed.reason, failed.code).message
                row.reply, row.failed = reply.SerializeToString(), True
                row.answered_at = now()
                closed.add(row.id)
        self._pulled |= closed  # the caller that closes a task knows the answer
        return closed | queries

    def receive(self, task: Task, answer: Answer) -> Message:
        """Return the reply as the strategy gets it; large arrays stay in the store until read.

        Raises `StoreError` if the disk has lost a part of it, which is no client's fault. The plan
        stops then, and its next start asks again (`resume`).
        """
        head = task.content.head
        query = self._queries.pop(task.id)
        if isinstance(answer, Failed) and (query or not self._answered(task.id, answer)):
            return make_failure(head, answer.reason, answer.code)
        with self._reading:
            self._pulled.add(task.id)
            reply = (query and query.reply) or self._reply(task.id)
        return unpack_reply(reply, head, self._fetch(reply), self._max_content)

    def load(self, task_id: str) -> pb.Task:
        """Return the task as it goes to its node; raises `RegistryError` if there is none."""
        query = self._queries.get(task_id)
        return query.task if query else pb.Task.FromString(self._row(task_id).task)

    def may_fetch(self, node_id: int, digest: str) -> bool:
        """Whether an open task of the node names the blob `digest`."""
        return self._queries.names(node_id, digest) or self.ledger.sent(node_id, digest)

    def busy(self, node_id: int) -> bool:
        """Whether the node has an open task."""
        return self._queries.busy(node_id) or self.ledger.busy(node_id)

    def take(self, node_id: int, reply: pb.Reply) -> ReplyOutcome:
        """Check a reply and keep it: afterwards it is on disk, or will never be needed.

        A reply that does not hold what it must is kept as the failure of its task. Raises
        `RegistryError` if the disk cannot store it; the node still has it then.
        """
        return self._intake.take(node_id, reply)

    def answer(self, task_id: str) -> Answer:
        """What the queue is to hold for a reply that was taken."""
        return HERE

    def settle(self, group: str, late: Collection[str] = ()) -> None:
        """Forget the tasks of the round `group`, which is on disk, and the blobs only they use.

        The tasks of this and earlier groups that are `late` stay, open or answered, because the
        strategy still needs them. A second call changes nothing.
        """
        self._settled.add(group)
        gone = self._ids(TaskRecord.group.in_(self._settled)) - set(late)
        self.ledger.drop(gone)
        self._pulled -= gone

    def unwanted(self, task_ids: Collection[str]) -> set[str]:
        """Those of `task_ids` that are not open: nobody waits for their replies."""
        wanted = self._ids(TaskRecord.id.in_(task_ids), TaskRecord.reply.is_(None))
        return {i for i in task_ids if i not in wanted and not self._queries.get(i)}

    def resume(self, groups: Iterable[str], late: Collection[str], retry: bool) -> int:
        """Put what an earlier process has left in order, before anything is sent.

        Tasks of `groups`, whose rounds are on disk, are forgotten except for the `late` ones. With
        `retry`, which is for a plan that had failed, tasks that failed are done again. Replies that
        the disk has lost are asked for again. Returns the number of open tasks.
        """
        self._settled |= set(groups)
        self.ledger.drop(self._ids(TaskRecord.group.in_(self._settled)) - set(late))
        if retry:
            with self._database.session(write=True) as session:
                session.execute(update(TaskRecord).where(TaskRecord.failed).values(retired=True))
        self.ledger.reopen()
        self.ledger.sweep()
        self._addresser = TaskIdAllocator(self._group, self._ids(TaskRecord.retired.is_(True)))
        return len(self._ids(TaskRecord.reply.is_(None)))

    def bar(self, node_id: int, reason: str) -> int:
        """Delete what only this node uploaded, since it may not take part any more.

        Returns the number of deleted blobs. Its answers do not count any more, unless a strategy
        has read them already.
        """
        with self._reading:
            return self.reclaimer.of_member(node_id, reason, self._pulled)

    def clear(self) -> None:
        """The plan is finished: nothing of any task is needed."""
        self.ledger.drop(self._ids())

    def _pack(self, message: Message) -> EncodedTask:
        packed = self._addresser.pack(message)
        if packed.error:
            self._unsendable[packed.task.task_id] = Failed(packed.error)
            return packed
        self.ledger.put(packed.blobs)
        if not packed.task.group_id:
            self._queries.add(packed)
        return packed

    def _answered(self, task_id: str, failed: Failed) -> bool:
        """Return the answer to a reply that may be on disk after all, or else `failed`."""
        return task_id not in self.close([task_id], failed) and bool(self.answers([task_id]))

    def _fetch(self, reply: pb.Reply) -> Fetch:
        def fetch(digest: str, size: int) -> Payload:
            payload = content_of(reply, digest, self.ledger.store)
            if (found := size_of(payload)) != size:
                path = self.ledger.store.path(digest)
                raise StoreError(f"{path}: damaged, {found} bytes of {size} are there")
            return payload

        return fetch

    def _reply(self, task_id: str) -> pb.Reply:
        return pb.Reply.FromString(self._row(task_id).reply or b"")

    def _row(self, task_id: str) -> TaskRecord:
        with self._database.session() as session:
            row = session.get(TaskRecord, task_id)
            if row is None:
                raise RegistryError(f"task {task_id[:12]}… is not in the journal any more")
            session.expunge(row)
            return row

    def _ids(self, *conditions: ColumnElement[bool]) -> set[str]:
        with self._database.session() as session:
            return set(session.scalars(select(TaskRecord.id).where(*conditions)))


def _add(session: Session, tasks: Mapping[str, EncodedTask]) -> None:
    known = set(session.scalars(select(TaskRecord.id).where(TaskRecord.id.in_(tasks))))
    for task_id, packed in tasks.items():
        if task_id in known:
            continue
        record = TaskRecord(id=task_id, group=packed.task.group_id, node_id=packed.task.node_id)
        record.task, record.pushed_at = packed.task.SerializeToString(), now()
        session.add(record)
        for digest in packed.blobs:
            session.add(BlobRecord(task_id=task_id, digest=digest, sent=True))
