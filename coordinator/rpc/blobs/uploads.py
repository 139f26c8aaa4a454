"""Uploads of blobs, which can resume, have one writer each, and must keep to their announcement.

A partial upload is under `store.root`/incoming until it is complete and its digest is right. If the
disk refuses it, the call ends with `TransportError`: the client keeps its blob and retries.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedmore.coordinator.rpc.blobs.upload_file import Partial, to_the_end
from fedmore.coordinator.rpc.blobs.upload_quota import Quota, Room
from fedmore.coordinator.tasks.journal import Journal
from fedmore.experts.errors import RegistryError, StoreError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.blobs import MAX_BLOB

T = TypeVar("T")
log = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Limits:
    """Limits of uploads.

    `size` is the most bytes of a blob, and `member` those of all blobs of a member that no reply
    names yet. `free` bytes of the disk stay free, and a member may use the fraction `share` of the
    rest. At most `writers` chunks are written at a time; other senders wait. A client may have
    `each` uploads open. At least `progress` bytes must arrive in each `stall_s` seconds. Unfinished
    and unused uploads are removed every `sweep_s` seconds.
    """

    size: int = MAX_BLOB
    member: int = 32 << 30
    sweep_s: float = 600.0
    free: int = 64 << 20
    share: float = 0.5
    writers: int = 8
    each: int = 4
    stall_s: float = 30.0
    progress: int = 64 << 10


class Uploads:
    """Receives uploads. It runs in the server's loop only; disk accesses run in threads."""

    def __init__(self, journal: Journal, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._journal, self._ledger = journal, journal.ledger
        self._incoming = self._ledger.store.root / "incoming"
        self._quota = Quota(self._incoming, self._ledger)
        self._writers = asyncio.Semaphore(self.limits.writers)
        self._open: dict[int, dict[str, Partial]] = {}
        self._quota.remove_stale()
        self._swept = time.monotonic()

    def check_room(self) -> None:
        """Raise `StoreError` if the disk is full; call it in a thread."""
        self._quota.check_room(0, 0, self.limits.free)

    async def tend(self, calling: Collection[int]) -> None:
        """Remove unfinished and unused uploads if it is time; call it every second.

        `calling` are the members with open calls.
        """
        if time.monotonic() - self._swept >= self.limits.sweep_s:
            self._swept = time.monotonic()
            await asyncio.to_thread(self._quota.remove_stale)
            await asyncio.to_thread(self._journal.reclaimer.unused, calling)

    def bar(self, node_id: int, reason: str) -> None:
        """Delete the uploads of an excluded member; call it in a thread.

        Call it repeatedly for some seconds, because data in transit may still arrive.
        """
        self._quota.remove_of(node_id)
        freed = self._journal.bar(node_id, reason)
        if freed:
            log.warning("%d blobs of node %d are deleted: %s", freed, node_id, reason)

    def held(self, node_id: int, blob: pb.Blob) -> pb.HeldReply:
        """Return the offset at which to resume; call it in a thread."""
        path = self._partial(node_id, blob)
        if self._ledger.uploaded(node_id, blob.digest):
            return pb.HeldReply(offset=blob.size, complete=True)
        return pb.HeldReply(offset=min(path.stat().st_size, blob.size) if path.exists() else 0)

    async def receive(
        self, node_id: int, start: pb.UploadStart, chunks: AsyncIterable[bytes]
    ) -> pb.Receipt:
        """Write chunks from `start.offset` on; a receipt means that the blob is in the store."""
        blob, path = start.blob, self._partial(node_id, start.blob)
        partial = Partial(path, blob.size, start.offset)
        with self._alone(node_id, blob.digest, partial), _disk(path):
            await self._check(node_id, partial)
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
            await to_the_end(step, argument)

    async def _steady(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks; raises `TransportError` if they are too slow."""
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
        """Allow one writer per file; a newer upload of the same blob replaces the older one."""
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

    async def _check(self, node_id: int, partial: Partial) -> None:
        """Raise an error unless a task needs the upload and there is room for it."""
        if not await asyncio.to_thread(self._journal.busy, node_id):
            raise RegistryError("no task of yours is open, so there is nothing to upload for")
        others = [p for p in self._open[node_id].values() if p is not partial]
        limit = self.limits.member
        room = Room(self.limits.free, self.limits.share)
        await asyncio.to_thread(self._quota.check_member, node_id, partial, others, limit, room)
        every = [p for of in self._open.values() for p in of.values()]
        reserved = sum(p.to_come for p in every if p.admitted)
        self._quota.check_room(partial.to_come, reserved, self.limits.free)
        partial.admitted = True  # without an await after the check


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn errors of the disk into `TransportError`, so that the client retries later."""
    try:
        yield
    except (OSError, StoreError) as error:
        log.error("%s: an upload cannot be kept: %s", path, error)
        raise TransportError(f"the coordinator cannot keep the upload now: {error}") from error
