"""Writes files atomically, durably and privately.

The steps are a temporary file, fsync, an atomic rename, and fsync of the folder. A new folder is
synced into its parent. Everything may be a secret, so only the owner can read it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedmore.experts.errors import ConfigError

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
UMASK = 0o077
"""Both programs' umask, so that files of libraries such as SQLite are private too."""


def at_home(path: Path | None) -> Path | None:
    """Expand `~` in `path`, which a shell leaves in `--data=~/texts`."""
    try:
        return path and path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}") from error


def local_name(name: str) -> str:
    """Expand `~` in the name of a base, if it is a path."""
    return str(at_home(Path(name))) if name.startswith("~") else name


def write_private(path: Path, text: str) -> None:
    """Replace the file `path` by `text`, with mode 0600."""
    write_durably(path, text.encode())


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` atomically: after a crash, `path` has all of it or is unchanged."""
    with writing(path) as file:
        file.write(data)


def export(path: Path, text: str) -> None:
    """Write a new file that a person asked for; raises `ConfigError` if it exists or cannot be."""
    try:
        write_new(path, text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def write_new(path: Path, text: str) -> None:
    """Write a new file with mode 0600; raises `FileExistsError` if the path exists.

    A failed write leaves nothing behind.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` atomically and durably if the block succeeds."""
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), PRIVATE)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a private folder, and missing folders above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    sync_folder(folder.parent)


def private_folder(folder: Path) -> None:
    """Make a folder private to its owner, and create it if it is missing."""
    make_folder(folder)
    if folder.stat().st_mode & 0o777 != PRIVATE_FOLDER:
        folder.chmod(PRIVATE_FOLDER)


def sync_folder(folder: Path) -> None:
    """Sync renames in `folder` to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
