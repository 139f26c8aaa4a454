"""Stores the registry's count of changes in a separate file, so that lost changes are noticed.

SQLite appends committed changes to a file beside the database ("-wal"). If a bit of it flips,
SQLite treats it and everything after it as torn by a power cut, and drops it silently. So the
database counts its changes, and the count is written here after each transaction. At that time the
transaction is on disk already, so a power cut or kill can leave the count too low, but never too
high.
"""

import os
from pathlib import Path
from zlib import crc32

from fedmore.experts.errors import RegistryError
from fedmore.protos.system.files import PRIVATE

SUFFIX = "-mark"
_LENGTH = 30


class CommitMark:
    """The file beside a SQLite database; any thread may use it."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + SUFFIX)
        self._file: int | None = None

    def write(self, changes: int) -> None:
        """Record that the transaction with this count of changes is on disk."""
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        os.pwrite(self._file, _line(changes), 0)

    def read(self) -> int:
        """The highest count so far; 0 without a file. Raises `RegistryError` for a damaged one."""
        try:
            found = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        number = found[:20]
        if not number.isdigit() or found != _line(int(number)):
            raise RegistryError(
                f"{self.path}: damaged; if nothing else is, delete this file and try again"
            )
        return int(number)

    def check(self, changes: int, mark: int) -> None:
        """Raise `RegistryError` if the database has fewer `changes` than `mark`."""
        if changes < mark:
            raise RegistryError(
                f"{self.path.with_name(self.path.name.removesuffix(SUFFIX))}: {mark - changes} of "
                f"{mark} changes are lost: the -wal file beside it is damaged or gone, or it is an "
                "older copy; restore the folder from a copy, or, to go on without these changes, "
                f"delete {self.path}"
            )

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _line(changes: int) -> bytes:
    number = f"{changes:020d}".encode()
    return number + f" {crc32(number):08x}\n".encode()
