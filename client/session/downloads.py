"""Blobs that a task names, fetched into files.

A blob lies in the folder under its digest, and under its digest and `.part` while it is on its way.
The received part survives a lost connection and the end of the process, and is not fetched again.
"""

import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from fedmore.client.transport.channel import Link
from fedmore.client.transport.retry import Backoff, persist
from fedmore.experts.errors import StoreError, WireError
from fedmore.protos.system.files import private_folder

TRIES = 3
"""How often a blob that came damaged is fetched from its beginning."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Downloads:
    """Files in `folder`, fetched over `link`; it is tried again for `patience_s` without a byte."""

    def __init__(
        self, folder: Path, link: Link, patience_s: float, stopped: threading.Event
    ) -> None:
        self._folder = folder
        self._link = link
        self._patience_s = patience_s
        self._stopped = stopped

    def fetch(self, digest: str, size: int, check: Callable[[], None]) -> Path:
        """The blob's file, of `size` bytes and with that digest.

        Calls `check`, which may raise, for every piece. Raises `WireError` if something else
        comes each time, and `StoreError` where the disk has no room.
        """
        if not _DIGEST.fullmatch(digest):
            raise WireError(f"{digest[:80]!r} is not a SHA-256 digest")
        path, patience = self._folder / digest, Backoff(self._patience_s)

        def came() -> None:
            check()
            patience.reset()

        tries = 0
        while not path.is_file() and tries < TRIES:
            persist(lambda: self._receive(path, size, came), patience, self._stopped)
            tries += 1
        if path.is_file():  # its digest was checked, and is again when it is read
            return path
        raise WireError(f"the blob {digest[:12]}… did not come as announced, {TRIES} times")

    def keep(self, digests: Collection[str]) -> None:
        """Delete every file but those of `digests`."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.removesuffix(".part") not in digests:
                    path.unlink(missing_ok=True)

    def _receive(self, path: Path, size: int, came: Callable[[], None]) -> None:
        part = path.with_suffix(".part")
        sha256 = hashlib.sha256()
        try:
            had = self._open(part, size, sha256)
            with part.open("ab") as file:
                for data in self._link.download(path.name, had) if had < size else ():
                    came()
                    file.write(data)
                    sha256.update(data)
                    had += len(data)
                    if had > size:
                        break
        except OSError as error:
            raise StoreError(f"{part}: cannot be written: {error}") from error
        if had == size and sha256.hexdigest() == path.name:
            part.replace(path)
        else:
            part.unlink()

    def _open(self, part: Path, size: int, sha256: "hashlib._Hash") -> int:
        """Take in what an earlier try left; returns its size."""
        private_folder(self._folder)
        had = part.stat().st_size if part.is_file() else 0
        free = shutil.disk_usage(self._folder).free
        if free < size - had:
            raise StoreError(
                f"{self._folder}: a task brings {size} bytes, and {free} are free; make room"
            )
        if had:
            with part.open("rb") as file:
                while data := file.read(1 << 20):
                    sha256.update(data)
        return had
