"""Blobs that come and go: who may fetch what, and uploads that resume.

A member may download what its open tasks name, and its replies may name only what it uploaded
itself. A partial upload lies under `store.root`/incoming until it is whole and its digest right.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fedmore.experts.errors import RegistryError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import CHUNK, MAX_BLOB

if TYPE_CHECKING:
    from fedmore.coordinator.store import Store

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The members' view of the store."""

    def __init__(self, store: "Store") -> None:
        self.store = store
        self._incoming = store.root / "incoming"
        self._granted: dict[int, dict[str, frozenset[str]]] = {}
        self._uploaded: dict[int, set[str]] = {}

    def grant(self, node_id: int, task_id: str, digests: Iterable[str]) -> None:
        """Let a node download `digests`, for a task."""
        self._granted.setdefault(node_id, {})[task_id] = frozenset(digests)

    def revoke(self, node_id: int, task_id: str) -> None:
        """The task is done: its blobs are no longer the node's to download."""
        self._granted.get(node_id, {}).pop(task_id, None)

    def fetch(self, node_id: int, digest: str) -> bytes:
        """A blob that a reply of this node names; raises `WireError` where it sent none such."""
        if digest not in self._uploaded.get(node_id, set()):
            raise WireError(f"the reply names the blob {digest[:12]}…, which was not uploaded")
        return self.store.get(digest)

    def held(self, node_id: int, blob: pb.Blob) -> pb.HeldReply:
        """Where to resume."""
        if blob.digest in self._uploaded.get(node_id, set()):
            return pb.HeldReply(offset=blob.size, complete=True)
        path = self._partial(node_id, blob)
        return pb.HeldReply(offset=path.stat().st_size if path.exists() else 0)

    async def receive(
        self, node_id: int, start: pb.UploadStart, chunks: AsyncIterable[bytes]
    ) -> pb.Receipt:
        """Write chunks from `start.offset` on; the receipt means that the blob is in the store."""
        blob, offset = start.blob, start.offset
        path = self._partial(node_id, blob)
        await asyncio.to_thread(_open_at, path, offset)
        async for chunk in chunks:
            if offset + len(chunk) > blob.size:
                path.unlink(missing_ok=True)
                raise WireError(f"the upload is longer than the {blob.size} bytes it announced")
            await asyncio.to_thread(_write_at, path, offset, chunk)
            offset += len(chunk)
        if offset != blob.size:
            raise WireError(f"the upload ended after {offset} of {blob.size} bytes; resume it")
        await asyncio.to_thread(self._complete, path, blob)
        self._uploaded.setdefault(node_id, set()).add(blob.digest)
        return pb.Receipt(digest=blob.digest, size=blob.size)

    async def send(self, node_id: int, request: pb.DownloadRequest) -> AsyncIterator[pb.Chunk]:
        """The blob's bytes from `request.offset` on."""
        granted = self._granted.get(node_id, {}).values()
        if not any(request.digest in digests for digests in list(granted)):
            raise RegistryError(f"no task of yours names the blob {request.digest[:12]!r}")
        path, offset = self.store.path(request.digest), request.offset
        while data := await asyncio.to_thread(_read_at, path, offset):
            yield pb.Chunk(data=data)
            offset += len(data)

    def _partial(self, node_id: int, blob: pb.Blob) -> Path:
        if not _DIGEST.fullmatch(blob.digest):
            raise WireError(f"{blob.digest[:80]!r} is not a SHA-256 digest")
        if blob.size > MAX_BLOB:
            raise WireError(f"a blob of {blob.size} bytes is above the limit of {MAX_BLOB}")
        return self._incoming / f"{node_id}-{blob.digest}"

    def _complete(self, path: Path, blob: pb.Blob) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == blob.digest:
            self.store.put(path.read_bytes())
        path.unlink(missing_ok=True)
        if digest != blob.digest:
            raise WireError(f"the upload announced {blob.digest[:12]}… but is {digest[:12]}…")


def _open_at(path: Path, offset: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if offset > file.tell():
            raise WireError(f"cannot resume at {offset}: {file.tell()} bytes are here")
        file.truncate(offset)


def _write_at(path: Path, offset: int, chunk: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(chunk)


def _read_at(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)
    except FileNotFoundError:
        raise RegistryError(f"{path}: the blob is missing; was the folder copied whole?") from None
