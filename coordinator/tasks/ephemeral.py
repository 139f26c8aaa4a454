"""Keeps queries in memory alone: a restarted coordinator asks them anew."""

from dataclasses import dataclass

from fedmore.coordinator.tasks.ids import EncodedTask
from fedmore.protos import federation_pb2 as pb


@dataclass
class Query:
    """A query, the blobs that it refers to, and its reply once that has arrived."""

    task: pb.Task
    digests: frozenset[str]
    reply: pb.Reply | None = None


class Queries:
    """Open queries and their replies; every step is atomic."""

    def __init__(self) -> None:
        self._by_id: dict[str, Query] = {}

    def add(self, packed: EncodedTask) -> None:
        """A query is asked."""
        self._by_id.setdefault(packed.task.task_id, Query(packed.task, frozenset(packed.blobs)))

    def get(self, task_id: str) -> Query | None:
        """The query, until it is popped."""
        return self._by_id.get(task_id)

    def pop(self, task_id: str) -> Query | None:
        """The query, forgotten here."""
        return self._by_id.pop(task_id, None)

    def busy(self, node_id: int) -> bool:
        """Whether a query to the node is open."""
        queries = list(self._by_id.values())
        return any(q.task.node_id == node_id and q.reply is None for q in queries)

    def names(self, node_id: int, digest: str) -> bool:
        """Whether an open query to the node names the blob."""
        return any(
            query.task.node_id == node_id and digest in query.digests and query.reply is None
            for query in list(self._by_id.values())
        )
