"""Deletes what members have uploaded and nobody needs, while the coordinator runs.

The data of a revoked or withdrawn member is not used any more. Its replies that no strategy has
read become failures, and what only it uploaded is deleted at once, without the trash.
"""

from collections.abc import Callable, Collection
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from fedmore.coordinator.store.database import Database
from fedmore.coordinator.store.journal_models import BlobRecord, TaskRecord, UploadRecord
from fedmore.coordinator.store.models import now
from fedmore.coordinator.tasks.blob_references import BlobReferences
from fedmore.protos.wire.flower_compat import CLIENT_RAISED
from fedmore.protos.wire.messages import pack_failure

UNUSED_S = 3_600.0
"""An upload that no reply has named for so long is forgotten, unless its member is calling."""


class Reclaimer:
    """Deletes blobs; it blocks, so call it in a thread. `live` gives the digests still needed."""

    def __init__(
        self, database: Database, ledger: BlobReferences, live: Callable[[], Collection[str]]
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._live = live

    def of_member(self, node_id: int, reason: str, read: Collection[str]) -> int:
        """Delete what only this member uploaded; returns the number of deleted blobs.

        Its replies become failures with that `reason`. Replies to tasks that were `read` stay until
        their round is settled, since a strategy works on these.
        """
        with self._ledger.files:
            with self._database.session(write=True) as session:
                _fail_replies(session, node_id, reason, read)
                gone = _forget_uploads(session, UploadRecord.node_id == node_id)
            return self._discard(gone)

    def unused(self, calling: Collection[int], older_s: float = UNUSED_S) -> int:
        """Delete uploads that no reply referred to for `older_s` seconds; returns how many blobs.

        Uploads of members that are `calling` stay: a large answer may take hours to arrive.
        """
        old = UploadRecord.received_at < now() - timedelta(seconds=older_s)
        with self._ledger.files:
            with self._database.session(write=True) as session:
                gone = _forget_uploads(session, old & UploadRecord.node_id.not_in(calling))
            return self._discard(gone)

    def _discard(self, digests: Collection[str]) -> int:
        doomed = set(digests) - set(self._live()) if digests else set()
        for digest in doomed:
            self._ledger.store.discard(digest)
        return len(doomed)


def _fail_replies(session: Session, node_id: int, reason: str, read: Collection[str]) -> None:
    answered = TaskRecord.reply.is_not(None) & ~TaskRecord.failed
    tasks = select(TaskRecord).where(TaskRecord.node_id == node_id, answered)
    for task in session.scalars(tasks.where(TaskRecord.id.not_in(read))).all():
        reply = pack_failure(task.id, reason, CLIENT_RAISED).message
        task.reply, task.failed = reply.SerializeToString(), True
        session.execute(delete(BlobRecord).where(BlobRecord.task_id == task.id, ~BlobRecord.sent))


def _forget_uploads(session: Session, which: ColumnElement[bool]) -> set[str]:
    """Remove uploads that no reply refers to from the books; returns their digests."""
    named = select(BlobRecord.digest).where(~BlobRecord.sent)
    found = select(UploadRecord).where(which, UploadRecord.digest.not_in(named))
    records = session.scalars(found).all()
    for record in records:
        session.delete(record)
    return {record.digest for record in records}
