"""Checks replies on their way into the journal: whose they are, and what they hold."""

from dataclasses import dataclass

from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.database import Database
from fedmore.coordinator.store.journal_models import BlobRecord, TaskRecord
from fedmore.coordinator.store.models import now
from fedmore.coordinator.tasks.blob_references import BlobReferences
from fedmore.coordinator.tasks.claims import check_claims
from fedmore.coordinator.tasks.ephemeral import Queries
from fedmore.coordinator.tasks.ids import head_of
from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.flower_compat import CLIENT_RAISED
from fedmore.protos.wire.messages import pack_failure, unpack_reply
from fedmore.protos.wire.payloads import Payload
from fedmore.protos.wire.records import Fetch
from fedmore.protos.wire.status import describe

ANSWERED = "the task is answered already"
SETTLED = "no such task: it is settled, or was never asked"


@dataclass(frozen=True)
class ReplyOutcome:
    """What became of a reply: a `fresh` one is now on disk; `failure` says why it holds no result.

    A reply that is not fresh is not needed. `refused` says why, and is empty for a reply that had
    arrived before. `size` is the size of its payload in bytes.
    """

    fresh: bool = False
    failure: str = ""
    refused: str = ""
    size: int = 0


@dataclass(frozen=True)
class ReplyAcceptor:
    """Accepts replies to tasks of the journal and to queries.

    A reply may have at most `max_content` bytes beside its large arrays.
    """

    database: Database
    ledger: BlobReferences
    queries: Queries
    max_content: int

    def take(self, node_id: int, reply: pb.Reply) -> ReplyOutcome:
        """Check a reply and keep it: afterwards it is on disk, or will never be needed.

        A reply that does not hold what it must is kept as the failure of its task. Raises
        `RegistryError` if the disk cannot store it; the node still has it then.
        """
        owner, task, known = self._asked(reply.task_id)
        if owner is None:  # a failure of what is settled is no loss to anybody
            return ReplyOutcome(refused="" if reply.HasField("failure") else SETTLED)
        if owner != node_id:
            return ReplyOutcome(refused="the task is another client's")
        if known is not None:
            again = known == reply.SerializeToString() or reply.HasField("failure")
            return ReplyOutcome(refused="" if again else ANSWERED)
        sizes: dict[str, int] = {}
        size = reply.ByteSize()
        reply, failure = self._checked(node_id, reply, task, sizes)
        if not self._keep(reply, sizes, bool(failure)):
            return ReplyOutcome(refused=ANSWERED)
        return ReplyOutcome(True, failure, size=size + sum(sizes.values()))

    def _asked(self, task_id: str) -> tuple[int | None, bytes, bytes | None]:
        """Node, packed task and its reply, each None if there is none."""
        query = self.queries.get(task_id)
        if query is not None:
            packed = query.task.SerializeToString()
            known = query.reply.SerializeToString() if query.reply else None
            return query.task.node_id, packed, known
        with self.database.session() as session:
            row = session.get(TaskRecord, task_id)
            return (row.node_id, row.task, row.reply) if row else (None, b"", None)

    def _checked(
        self, node_id: int, reply: pb.Reply, task: bytes, sizes: dict[str, int]
    ) -> tuple[pb.Reply, str]:
        """The reply, or the failure that it amounts to, and why; fills `sizes` of its blobs."""
        try:
            fetch = self._fetch(node_id, reply, sizes)
            message = unpack_reply(reply, head_of(task), fetch, self.max_content)
            check_claims(self.database, node_id, message)
        except WireError as error:
            sizes.clear()
            reason = describe(error)
            return pack_failure(reply.task_id, reason, CLIENT_RAISED).message, reason
        return reply, (message.error.reason or "failed") if message.has_error() else ""

    def _fetch(self, node_id: int, reply: pb.Reply, sizes: dict[str, int]) -> Fetch:
        def fetch(digest: str, size: int) -> Payload:
            if not self.ledger.uploaded(node_id, digest):
                raise WireError(f"the reply names the blob {digest[:12]}…, which was not uploaded")
            sizes[digest] = size
            return content_of(reply, digest, self.ledger.store)

        return fetch

    def _keep(self, reply: pb.Reply, digests: dict[str, int], failed: bool) -> bool:
        query = self.queries.get(reply.task_id)
        if query is not None:
            query.reply = reply
            return True
        with self.database.session(write=True) as session:
            row = session.get(TaskRecord, reply.task_id)
            if row is None or row.reply is not None:  # of two that came at once, one counts
                return False
            row.reply, row.failed, row.answered_at = reply.SerializeToString(), failed, now()
            for digest in digests:
                session.add(BlobRecord(task_id=reply.task_id, digest=digest, sent=False))
        return True


def content_of(reply: pb.Reply, digest: str, store: Store) -> Payload:
    """Return a blob of a reply: the content is read and checked now, an array on its first use."""
    return store.get(digest) if reply.content.blob.digest == digest else store.path(digest)
