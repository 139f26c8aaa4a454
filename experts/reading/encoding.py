"""Opens text files in the encoding of their byte order mark, or else in the owner's choice."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from fedmore.experts.errors import DataError
from fedmore.experts.reading.files import PACKED

NUL = "\0"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # must come before UTF-16's, which is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def open_text(file: Path, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
    """Open `file` as text, decompressing .gz; errors inside become `DataError`.

    A byte order mark decides on the encoding. Without one it is `encoding`, or UTF-8 if that is
    empty.
    """
    try:
        with _binary(file) as raw:
            start = raw.read(4)
            raw.seek(0)
            wanted = encoding_of(start, encoding or "utf-8")
            with io.TextIOWrapper(raw, encoding=wanted, newline=newline) as text:
                yield text
    except UnicodeError as error:
        raise DataError(_undecoded(file, encoding, error)) from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{file}: damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error


def encoding_of(start: bytes, otherwise: str) -> str:
    """The encoding named by a byte order mark in a file's first bytes, else `otherwise`."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), otherwise)


def lines_of(text: TextIO, file: Path) -> Iterator[str]:
    """Yield the lines of `text`; raises `DataError` if the file is binary."""
    for line in text:
        yield checked(line, file)


def checked(text: str, file: Path) -> str:
    """Return `text`; raises `DataError` if it contains NUL, as only binary files do."""
    if NUL in text:
        raise DataError(
            f"{file}: holds NUL bytes: a binary file under a text name (take it out), or UTF-16 "
            "without a mark (give --encoding utf-16-le)"
        )
    return text


def _binary(file: Path) -> BinaryIO:
    if file.name.lower().endswith(PACKED):
        return cast("BinaryIO", gzip.open(file, "rb"))
    return file.open("rb")


def _undecoded(file: Path, encoding: str, error: UnicodeError) -> str:
    reason = getattr(error, "reason", str(error))
    if encoding:
        return f"{file}: not {encoding} text ({reason}), as --encoding says; give its own encoding"
    return (
        f"{file}: not UTF-8 text ({reason}); say how it is written, for example with "
        "--encoding latin-1"
    )
