"""Files that are there whole or not at all, on disk when the call returns, and private.

A temporary file, fsync, an atomic rename, fsync of the folder; a folder that is made is synced into
the one that it lies in. What either program writes may be a secret, so it is its owner's alone.
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
"""Of both programs: what others write for them, such as SQLite and safetensors, is private too."""


def at_home(path: Path | None) -> Path | None:
    """`path` with the home folder for `~`, which a shell leaves in `--data=~/texts`."""
    try:
        return path and path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}") from error


def local_name(name: str) -> str:
    """The name of a base, by path or on the hub, with the home folder for `~`."""
    return str(at_home(Path(name))) if name.startswith("~") else name


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text`, with mode 0600."""
    write_durably(path, text.encode())


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` so that `path` has all of it or is untouched, whatever happens meanwhile."""
    with writing(path) as file:
        file.write(data)


def export(path: Path, text: str) -> None:
    """Make the file that a person asked for; raises `ConfigError` if it cannot be made anew."""
    try:
        write_new(path, text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def write_new(path: Path, text: str) -> None:
    """Make `path` with `text`, mode 0600; raises `FileExistsError` if anything is there.

    Of a write that fails half-way nothing stays.
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
    """A file that becomes `path` when the block ends well, all at once and durably."""
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
    """Make a folder private to its owner; it is created if it is missing."""
    make_folder(folder)
    if folder.stat().st_mode & 0o777 != PRIVATE_FOLDER:
        folder.chmod(PRIVATE_FOLDER)


def sync_folder(folder: Path) -> None:
    """Have renames in `folder` on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
