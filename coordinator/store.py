"""The content-addressed store: bytes under the SHA-256 of themselves.

What `put` has returned is on disk: temporary file, fsync, atomic rename, fsync of the folder. Two
writers of the same content end with one file.
"""

import hashlib
import os
import re
import tempfile
from pathlib import Path

from fedmore.experts.errors import RegistryError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Store:
    """Blobs below `root`, each in `root/<first two digits>/<digest>`; made on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where `digest` lies, or would; raises `RegistryError` for what is not a digest."""
        if not _DIGEST.fullmatch(digest):
            raise RegistryError(f"{digest!r} is not a SHA-256 digest of 64 hex digits")
        return self.root / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether the blob is there; its content is checked by `get`."""
        return self.path(digest).is_file()

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest; a second time changes nothing."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if not self._intact(path, data):
            try:
                write_durably(path, data)
            except OSError as error:
                raise RegistryError(f"{self.root}: cannot store a blob: {error}") from error
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of `digest`; raises `RegistryError` when they are missing or corrupt."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise RegistryError(f"{path}: no such blob; was the folder copied whole?") from None
        except OSError as error:
            raise RegistryError(f"{path}: cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise RegistryError(f"{path}: corrupt, its content has another digest; restore it")
        return data

    @staticmethod
    def _intact(path: Path, data: bytes) -> bool:
        """Whether `path` already holds `data`; a corrupt blob is written again."""
        try:
            return path.stat().st_size == len(data) and path.read_bytes() == data
        except OSError:
            return False


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` so that `path` has all of it or is untouched, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
