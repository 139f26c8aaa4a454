"""Opens a registry in a read-only folder, in which SQLite cannot make its helper files."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL

from fedmore.experts.errors import StoreError


def writable(directory: Path, database: Path) -> bool:
    """Whether SQLite can write `database` and its helper files in `directory`."""
    return os.access(directory, os.W_OK) and os.access(database, os.W_OK)


def url_of(database: Path) -> URL:
    """URL that opens the file as immutable.

    After a kill of the coordinator, part of the data is in the file beside it ("-wal"), which
    SQLite would ignore then. In that case the URL is of a private copy of both.
    """
    wal = database.with_name(f"{database.name}-wal")
    try:
        if wal.exists() and wal.stat().st_size:
            return URL.create("sqlite", database=str(_copied(database, wal)))
    except OSError as error:
        raise StoreError(f"{error.filename}: cannot be read: {error.strerror}") from error
    query = {"uri": "true", "mode": "ro", "immutable": "1"}
    return URL.create("sqlite", database=f"file:{quote(str(database))}", query=query)


def _copied(*files: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fedmore-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    first, *_ = [Path(shutil.copyfile(file, folder / file.name)) for file in files]
    return first  # the copies are writable, independent of the originals' modes
