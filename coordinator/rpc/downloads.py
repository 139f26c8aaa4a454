"""Blobs on their way out: a member may download what its open tasks name, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from fedmore.coordinator.journal import Journal
from fedmore.experts.errors import RegistryError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import CHUNK


class Downloads:
    """The members' view of the store."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def send(self, node_id: int, request: pb.DownloadRequest) -> AsyncIterator[pb.Chunk]:
        """The blob's bytes from `request.offset` on."""
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
