"""Blobs on their way in: uploads that resume, one writer each, held to what they announced.

A partial upload lies under `store.root`/incoming until it is whole and its digest right. What the
disk does not take is a `TransportError`: the client keeps what it has and comes again.
"""

import asyncio
import hashlib
import logging
import re
import shutil
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fedmore.coordinator.ledger import Ledger
from fedmore.experts.errors import StoreError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.chunks import CHUNK, MAX_BLOB
from fedmore.protos.files import PRIVATE, private_folder

T = TypeVar("T")
log = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
STALE_S = 86_400.0


@dataclass(frozen=True)
class Limits:
    """What uploads may use.

    A blob may have `size` bytes; `free` bytes stay free on the disk. `writers` chunks are written
    at a time, the others wait, and their senders with them. A client has `each` uploads open. In
    each `stall_s` seconds `progress` bytes must come.
    """

    size: int = MAX_BLOB
    free: int = 64 << 20
    writers: int = 8
    each: int = 4
    stall_s: float = 30.0
    progress: int = 64 << 10


class Uploads:
    """Used from the server's loop only; what touches the disk is in threads."""

    def __init__(self, ledger: Ledger, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._ledger = ledger
        self._incoming = ledger.store.root / "incoming"
        self._writers = asyncio.Semaphore(self.limits.writers)
        self._open: dict[int, dict[str, Partial]] = {}
        remove_stale(self._incoming)

    def held(self, node_id: int, blob: pb.Blob) -> pb.HeldReply:
        """Where to resume; to be called in a thread."""
        path = self._partial(node_id, blob)
        if self._ledger.uploaded(node_id, blob.digest):
            return pb.HeldReply(offset=blob.size, complete=True)
        return pb.HeldReply(offset=min(path.stat().st_size, blob.size) if path.exists() else 0)

    async def receive(
        self, node_id: int, start: pb.UploadStart, chunks: AsyncIterable[bytes]
    ) -> pb.Receipt:
        """Write chunks from `start.offset` on; the receipt means that the blob is in the store."""
        blob, path = start.blob, self._partial(node_id, start.blob)
        partial = Partial(path, blob.size)
        with self._alone(node_id, blob.digest, partial), _disk(path):
            self._check_room(blob.size - start.offset)
            try:
                await self._write(partial, partial.open, start.offset)
                async for chunk in self._steady(chunks):
                    await self._write(partial, partial.write, chunk)
                await self._write(partial, partial.check, blob.digest)
            finally:
                await partial.close()
            add = self._ledger.add_upload
            await asyncio.to_thread(add, node_id, path, blob.digest, blob.size)
        return pb.Receipt(digest=blob.digest, size=blob.size)

    async def _write(self, partial: "Partial", step: Callable[[T], None], argument: T) -> None:
        async with self._writers, partial.lock:
            if partial.replaced:
                raise TransportError("the same blob is being uploaded on a newer call")
            await _to_the_end(step, argument)

    async def _steady(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The chunks, as long as they come at a pace."""
        source, limits = aiter(chunks), self.limits
        came, began = 0, time.monotonic()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(source), limits.stall_s)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise self._stalled() from None
            came += len(chunk)
            if time.monotonic() - began >= limits.stall_s:
                if came < limits.progress:
                    raise self._stalled()
                came, began = 0, time.monotonic()
            if not chunk:
                raise WireError("an upload has no empty chunks")
            yield chunk

    def _stalled(self) -> TransportError:
        stall = self.limits.stall_s
        return TransportError(f"the upload made no progress for {stall:g} s; resume it")

    @contextmanager
    def _alone(self, node_id: int, digest: str, partial: "Partial") -> Iterator[None]:
        """One writer for a file: a newer upload of the same blob takes it over."""
        mine = self._open.setdefault(node_id, {})
        if digest in mine:
            mine[digest].replaced = True
            partial.lock = mine[digest].lock
        elif len(mine) >= self.limits.each:
            raise TransportError(f"{len(mine)} of your uploads are open; end one of them first")
        mine[digest] = partial
        try:
            yield
        finally:
            if mine.get(digest) is partial:
                del mine[digest]
            if not mine:
                self._open.pop(node_id, None)

    def _partial(self, node_id: int, blob: pb.Blob) -> Path:
        if not _DIGEST.fullmatch(blob.digest):
            raise WireError(f"{blob.digest[:80]!r} is not a SHA-256 digest")
        if blob.size > self.limits.size:
            raise WireError(f"a blob of {blob.size} bytes is above the limit of {self.limits.size}")
        return self._incoming / f"{node_id}-{blob.digest}"

    def _check_room(self, wanted: int) -> None:
        private_folder(self._incoming)
        free = shutil.disk_usage(self._incoming).free
        if wanted + self.limits.free > free:
            raise StoreError(f"no room for {wanted} bytes: {free} are free on the disk")


class Partial:
    """A file that grows up to `size` bytes; its digest is computed on the way."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.lock = asyncio.Lock()
        self.replaced = False
        self._file: BinaryIO | None = None
        self._digest: Any = hashlib.sha256()
        self._offset = 0

    def open(self, offset: int) -> None:
        """Go on at `offset`, which must not be beyond what is here."""
        self.path.touch(mode=PRIVATE)
        file = self._file = self.path.open("r+b", buffering=0)
        here = self.path.stat().st_size
        if offset > here:
            raise WireError(f"cannot resume at {offset}: {here} bytes are here")
        file.truncate(offset)
        while piece := file.read(CHUNK):
            self._digest.update(piece)
        self._offset = offset

    def write(self, chunk: bytes) -> None:
        """Append; what does not fit ends the upload and removes the file."""
        assert self._file is not None
        if self._offset + len(chunk) > self.size:
            self.path.unlink(missing_ok=True)
            raise WireError(f"the upload is longer than the {self.size} bytes it announced")
        try:
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self.path.unlink(missing_ok=True)  # make room for others
            raise
        self._digest.update(chunk)
        self._offset += len(chunk)

    def check(self, digest: str) -> None:
        """Raise `WireError` unless all is here and as announced."""
        if self._offset != self.size:
            raise WireError(
                f"the upload ended after {self._offset} of {self.size} bytes; resume it"
            )
        found = self._digest.hexdigest()
        if found != digest:
            self.path.unlink(missing_ok=True)
            raise WireError(f"the upload announced {digest[:12]}… but is {found[:12]}…")

    async def close(self) -> None:
        """Let go of the file once nobody writes."""
        async with self.lock:
            if self._file is not None:
                self._file.close()


async def _to_the_end(step: Callable[[T], None], argument: T) -> None:
    """Do `step` in a thread, and wait for it when the call is cut off meanwhile.

    The thread goes on regardless: the file must not be closed, or written by a successor, under it.
    """
    running = asyncio.ensure_future(asyncio.to_thread(step, argument))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What the disk refuses is no fault of the client, which is to come again."""
    try:
        yield
    except (OSError, StoreError) as error:
        log.error("%s: an upload cannot be kept: %s", path, error)
        raise TransportError(f"the coordinator cannot keep the upload now: {error}") from error


def remove_stale(incoming: Path, older_s: float = STALE_S) -> None:
    """Remove partial uploads that nobody has gone on with for `older_s` seconds."""
    for path in incoming.glob("*-*"):
        if path.stat().st_mtime < time.time() - older_s:
            path.unlink(missing_ok=True)
