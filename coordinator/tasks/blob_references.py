"""Keeps the books of the store: which blobs are referred to, and by what.

A blob is live while a task, a reply, an upload or the registry refers to it. A blob without
references is deleted after the transaction that removed the last one. A kill between the two leaves
a blob too many, never one too few, and `sweep` finds it at the next start.
"""

import logging
import threading
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.database import Database
from fedmore.coordinator.store.journal_models import BlobRecord, TaskRecord, UploadRecord
from fedmore.coordinator.store.models import now
from fedmore.experts.errors import RegistryError
from fedmore.protos.wire.payloads import Payload

log = logging.getLogger(__name__)
UNUSED_S = 86_400.0
"""An upload that no reply has named for so long is forgotten when the coordinator starts."""


class BlobReferences:
    """Uploads and the blobs of tasks; `registered` gives the digests in the registry."""

    def __init__(
        self, database: Database, store: Store, registered: Callable[[], Collection[str]]
    ) -> None:
        self.store = store
        self._database = database
        self._registered = registered
        self.files = threading.RLock()
        """Held from a blob's coming into the store until it is in the books, and by deletions."""

    def put(self, blobs: dict[str, Payload]) -> None:
        """Put blobs into the store; hold `files` until a transaction refers to them."""
        for digest, payload in blobs.items():
            if isinstance(payload, Path):
                self.store.put_file(payload, digest)
            else:
                self.store.put(payload)

    def add_upload(self, node_id: int, path: Path, digest: str, size: int) -> None:
        """Record the finished upload at `path`, whose digest was checked, for `node_id`."""
        with self.files:
            self.store.adopt(path, digest)
            with self._database.session(write=True) as session:
                record = UploadRecord(node_id=node_id, digest=digest, size=size, received_at=now())
                session.merge(record)

    def uploaded(self, node_id: int, digest: str) -> bool:
        """Whether `node_id` uploaded `digest` and the blob is still there."""
        with self._database.session() as session:
            known = session.get(UploadRecord, (node_id, digest)) is not None
        return known and self.store.has(digest)

    def unnamed(self, node_id: int, but: str) -> tuple[int, int]:
        """Bytes of uploads that no reply refers to: the node's, and all; `but` is not counted."""
        named = select(BlobRecord.digest).where(~BlobRecord.sent)
        query = select(func.sum(UploadRecord.size)).where(UploadRecord.node_id == node_id)
        query = query.where(UploadRecord.digest != but)
        with self._database.session() as session:
            all_ = int(session.scalar(query) or 0)
            return int(session.scalar(query.where(UploadRecord.digest.not_in(named))) or 0), all_

    def busy(self, node_id: int) -> bool:
        """Whether a task of the node is open."""
        query = select(TaskRecord.id).where(TaskRecord.node_id == node_id)
        with self._database.session() as session:
            return session.scalar(query.where(TaskRecord.reply.is_(None)).limit(1)) is not None

    def sent(self, node_id: int, digest: str) -> bool:
        """Whether an open task of `node_id` names `digest`."""
        query = select(TaskRecord.id).join(BlobRecord, BlobRecord.task_id == TaskRecord.id)
        query = query.where(BlobRecord.digest == digest, BlobRecord.sent)
        query = query.where(TaskRecord.node_id == node_id, TaskRecord.reply.is_(None))
        with self._database.session() as session:
            return session.scalar(query.limit(1)) is not None

    def drop(self, task_ids: Collection[str]) -> None:
        """Forget tasks, and delete the blobs that only they named."""
        if not task_ids:
            return
        with self.files:
            with self._database.session(write=True) as session:
                named = _forget(session, task_ids)
            for digest in named - self._live():
                self.store.discard(digest)  # what was made of them is on disk

    def reopen(self) -> None:
        """Open every task again whose reply refers to a blob that the disk has lost or damaged."""
        with self._database.session() as session:
            named = set(session.scalars(select(BlobRecord.digest).where(~BlobRecord.sent)))
        lost = sorted(digest for digest in named if not self._whole(digest))
        if lost:
            with self._database.session(write=True) as session:
                count = _reopen(session, lost)
            paths = ", ".join(str(self.store.path(digest)) for digest in lost)
            log.warning("%d replies are asked for again; lost or damaged: %s", count, paths)

    def _whole(self, digest: str) -> bool:
        try:
            self.store.check(digest)
        except RegistryError:
            return False
        return True

    def sweep(self) -> int:
        """Forget uploads that no reply referred to for a day, and delete blobs that are not live.

        Call it while nothing else uses the store, and once `pairing` has shown that the store is
        this registry's. Returns the number of deleted blobs.
        """
        old = UploadRecord.received_at < now() - timedelta(seconds=UNUSED_S)
        named = select(BlobRecord.digest).where(~BlobRecord.sent)
        with self.files:
            with self._database.session(write=True) as session:
                session.execute(delete(UploadRecord).where(old, UploadRecord.digest.not_in(named)))
            doomed = self.store.digests() - self._live()
            for digest in doomed:
                self.store.delete(digest)
        self.store.empty_trash()
        return len(doomed)

    def _live(self) -> set[str]:
        return live(self._database, self._registered)


def live(database: Database, registered: Callable[[], Collection[str]]) -> set[str]:
    """Return the digests that a task, a reply, an upload or the registry refers to."""
    with database.session() as session:
        booked = {*session.scalars(select(BlobRecord.digest).distinct())}
        booked |= {*session.scalars(select(UploadRecord.digest).distinct())}
    return booked | set(registered())


def _reopen(session: Session, lost: Collection[str]) -> int:
    """Remove replies that refer to `lost` blobs, and uploads of these; returns how many replies."""
    naming = select(BlobRecord.task_id).where(BlobRecord.digest.in_(lost), ~BlobRecord.sent)
    tasks = session.scalars(select(TaskRecord).where(TaskRecord.id.in_(naming))).all()
    for task in tasks:
        task.reply, task.answered_at = None, None
    ids = [task.id for task in tasks]
    session.execute(delete(BlobRecord).where(BlobRecord.task_id.in_(ids), ~BlobRecord.sent))
    session.execute(delete(UploadRecord).where(UploadRecord.digest.in_(lost)))
    return len(ids)


def _forget(session: Session, task_ids: Collection[str]) -> set[str]:
    """Remove tasks; returns the digests that they, and the uploads of their nodes, referred to."""
    ours, tasks = BlobRecord.task_id.in_(task_ids), TaskRecord.id.in_(task_ids)
    nodes = set(session.scalars(select(TaskRecord.node_id).where(tasks)))
    named = set(session.scalars(select(BlobRecord.digest).where(ours)))
    session.execute(delete(BlobRecord).where(ours))
    session.execute(delete(TaskRecord).where(tasks))
    busy = select(TaskRecord.node_id)  # what an idle node has uploaded is of no more use
    of_no_use = UploadRecord.digest.in_(named) | UploadRecord.node_id.not_in(busy)
    gone = UploadRecord.node_id.in_(nodes) & of_no_use
    named |= set(session.scalars(select(UploadRecord.digest).where(gone)))
    session.execute(delete(UploadRecord).where(gone))
    return named
