"""The file of one upload, with a size limit and a running digest."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fedmore.experts.errors import WireError
from fedmore.protos.system.files import PRIVATE
from fedmore.protos.wire.blobs import CHUNK

T = TypeVar("T")


class Partial:
    """A file that grows up to `size` bytes, with a running digest."""

    def __init__(self, path: Path, size: int, offset: int = 0) -> None:
        self.path, self.size = path, size
        self.lock = asyncio.Lock()
        self.replaced = self.admitted = False
        self._file: BinaryIO | None = None
        self._digest: Any = hashlib.sha256()
        self._offset = offset

    @property
    def to_come(self) -> int:
        """Announced bytes that are not on disk yet."""
        return max(0, self.size - self._offset)

    def open(self, offset: int) -> None:
        """Continue at `offset`, which must not be beyond the bytes on disk."""
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
        """Append a chunk; one that exceeds the size ends the upload and removes the file."""
        assert self._file is not None
        if self._offset + len(chunk) > self.size:
            self.path.unlink(missing_ok=True)
            raise WireError(f"the upload is longer than the {self.size} bytes it announced")
        try:
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self.path.unlink(missing_ok=True)  # frees the disk for others
            raise
        self._digest.update(chunk)
        self._offset += len(chunk)

    def check(self, digest: str) -> None:
        """Raise `WireError` unless size and digest are as announced."""
        if self._offset != self.size:
            raise WireError(
                f"the upload ended after {self._offset} of {self.size} bytes; resume it"
            )
        found = self._digest.hexdigest()
        if found != digest:
            self.path.unlink(missing_ok=True)
            raise WireError(f"the upload announced {digest[:12]}… but is {found[:12]}…")

    async def close(self) -> None:
        """Close the file after the last write has ended."""
        async with self.lock:
            if self._file is not None:
                self._file.close()


async def to_the_end(step: Callable[[T], None], argument: T) -> None:
    """Do `step` in a thread, and wait for its end even if the call is cancelled meanwhile.

    The thread cannot be cancelled, so the file must not be closed, or written by a successor,
    before it ends. Its error is raised also then, since it may be the reason of the cancellation.
    """
    running, cut = asyncio.ensure_future(asyncio.to_thread(step, argument)), None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cut = error
    running.result()
    if cut is not None:
        raise cut
