"""Downloads of blobs: a member may download only what its open tasks name."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

from fedmore.coordinator.tasks.journal import Journal
from fedmore.experts.errors import RegistryError, TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.blobs import CHUNK

EACH = 4
"""Most open downloads of a member; our client has one."""


class Downloads:
    """Serves members' downloads from the store."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: Counter[int] = Counter()

    async def send(
        self, node_id: int, request: pb.DownloadRequest
    ) -> AsyncGenerator[pb.Chunk, None]:
        """Yield the blob's bytes from `request.offset` on, in chunks."""
        if self._open[node_id] >= EACH:
            raise TransportError(f"{EACH} of your downloads are open; end one of them first")
        self._open[node_id] += 1
        try:
            async for chunk in self._chunks(node_id, request):
                yield chunk
        finally:
            self._open[node_id] -= 1
            if not self._open[node_id]:
                del self._open[node_id]

    async def _chunks(
        self, node_id: int, request: pb.DownloadRequest
    ) -> AsyncGenerator[pb.Chunk, None]:
        if not await asyncio.to_thread(self._journal.may_fetch, node_id, request.digest):
            raise RegistryError(f"no task of yours names the blob {request.digest[:12]!r}")
        path, offset = self._journal.ledger.store.path(request.digest), request.offset
        while data := await asyncio.to_thread(_read_at, path, offset):
            yield pb.Chunk(data=data)
            offset += len(data)


def _read_at(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)
    except FileNotFoundError:
        raise RegistryError(f"{path}: the blob is missing; was the folder copied whole?") from None
