"""The content-addressed store: each blob is named by its SHA-256.

After `put` returns, the blob is on disk: temporary file, fsync, atomic rename, fsync of the folder.
Two writers of the same content end with one file. A blob may be larger than memory: `put_file`,
`adopt` and `check` read in pieces. A deleted blob stays in a trash for a week, unless the disk is
short of room.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmore.experts.errors import RegistryError, StoreError
from fedmore.protos.system.files import make_folder, sync_folder, write_durably, writing

_DIGEST = re.compile(r"[0-9a-f]{64}")
PIECE = 1 << 20
OWNER = "registry-id"
"""File with the id of the registry to which the blobs belong."""
TRASH = "trash"
GRACE_S = 7 * 86_400.0
"""Seconds that a deleted blob stays in the trash."""


class Store:
    """Blobs below `root`, each as `root/<first two digits>/<digest>`; created at first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Path of a blob, which may not exist; raises `RegistryError` for an invalid digest."""
        if not is_digest(digest):
            raise RegistryError(f"{digest!r} is not a SHA-256 digest of 64 hex digits")
        return self.root / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether the blob exists; only `get` checks its content."""
        return self.path(digest).is_file()

    def digests(self) -> set[str]:
        """Digests of all blobs."""
        return {path.name for path in self.root.glob("??/*") if is_digest(path.name)}

    def put(self, data: bytes) -> str:
        """Store `data` and return its digest; a second call changes nothing.

        Raises `StoreError` if the disk is full or read-only.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if not self._intact(path, digest, len(data)):
            with self._storing():
                write_durably(path, data)
        return digest

    def put_file(self, path: Path, digest: str) -> None:
        """Store a copy of the file at `path`, whose digest is `digest`."""
        target = self.path(digest)
        if path == target or self._intact(target, digest, path.stat().st_size):
            return
        with self._storing(), writing(target) as file, path.open("rb") as source:
            while piece := source.read(PIECE):
                file.write(piece)
        self.check(digest)

    def adopt(self, path: Path, digest: str) -> None:
        """Move the file at `path` into the store; it is on the same disk and has this digest."""
        target = self.path(digest)
        with self._storing():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            make_folder(target.parent)
            path.replace(target)
            sync_folder(target.parent)

    def get(self, digest: str) -> bytes:
        """Read a blob; raises `RegistryError` if it is missing or corrupt."""
        path = self.path(digest)
        with _reading(path):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise _corrupt(path)
        return data

    def check(self, digest: str) -> None:
        """Raise `RegistryError` unless the blob exists and is intact."""
        path = self.path(digest)
        with _reading(path), path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise _corrupt(path)

    def delete(self, digest: str) -> None:
        """Move a blob to the trash; a missing one is no error."""
        path, trash = self.path(digest), self.root / TRASH
        with self._storing():
            make_folder(trash)
            try:
                os.utime(path)  # its time in the trash begins
                path.replace(trash / digest)
            except FileNotFoundError:
                return
            sync_folder(trash)

    def discard(self, digest: str) -> None:
        """Delete a blob at once, because a better version is on disk."""
        with self._storing():
            self.path(digest).unlink(missing_ok=True)

    def deleted(self, digest: str) -> bytes | None:
        """Read an intact blob from the trash; None if it is not there."""
        path = self.root / TRASH / self.path(digest).name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def empty_trash(self, older_s: float = GRACE_S) -> int:
        """Remove blobs that were in the trash for `older_s` seconds; returns their bytes."""
        freed, limit = 0, time.time() - older_s
        for path in sorted((self.root / TRASH).glob("*")):
            about = path.stat()
            if about.st_mtime <= limit:
                path.unlink(missing_ok=True)
                freed += about.st_size
        return freed

    def owner(self) -> str:
        """Id of the registry to which these blobs belong; empty if unknown."""
        try:
            return (self.root / OWNER).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.root / OWNER}: damaged ({error}); restore it") from error

    def own(self, registry: str) -> None:
        """Assign the blobs to the registry with this id."""
        with self._storing():
            write_durably(self.root / OWNER, f"{registry}\n".encode())

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot store a blob: {error.strerror or error}; make room there, "
                "or give the coordinator the right to write"
            ) from error

    def _intact(self, path: Path, digest: str, size: int) -> bool:
        """Whether `path` holds the intact blob already; a corrupt one is written again."""
        try:
            if path.stat().st_size != size:
                return False
            self.check(digest)
        except (OSError, RegistryError):
            return False
        return True


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in hex."""
    return _DIGEST.fullmatch(text) is not None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RegistryError(f"{path}: no such blob; was the folder copied whole?") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error


def _corrupt(path: Path) -> StoreError:
    return StoreError(f"{path}: corrupt, its content has another digest; restore it")
