"""Reads the rows of an owner's files, each with its place for error messages.

A row is a text, or a table from column names to values. json and csv are read by the standard
library, parquet by pyarrow.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from fedmore.experts.errors import DataError
from fedmore.experts.reading.columns import Columns, same_name
from fedmore.experts.reading.encoding import checked, lines_of, open_text
from fedmore.experts.reading.files import KNOWN, LINES, PARQUET, PLAIN, SEPARATED, kind_of

Row = tuple[str, object]
DELIMITERS = ",;\t|"
LONGEST_FIELD = (1 << 31) - 1
"""Most characters of a csv field; the library's default, 131,072, is less than a book."""


def rows_of(file: Path, encoding: str, columns: Columns) -> Iterator[Row]:
    """Yield every row of `file` with its place; raises `DataError` if the file is damaged."""
    kind = kind_of(file)
    if kind in PLAIN:
        yield from _whole(file, encoding)
    elif kind in LINES:
        yield from _json(file, encoding)
    elif kind in SEPARATED:
        yield from _separated(file, encoding, columns)
    elif kind == PARQUET:
        yield from _parquet(file, columns)
    else:
        raise DataError(f"{file}: unknown kind of file; known are {', '.join(KNOWN)}, also .gz")


def _whole(file: Path, encoding: str) -> Iterator[Row]:
    with open_text(file, encoding) as text:
        yield str(file), checked(text.read(), file)


def _json(file: Path, encoding: str) -> Iterator[Row]:
    with open_text(file, encoding) as text:
        if kind_of(file) != ".json":
            yield from _lines(lines_of(text, file), file)
            return
        whole = checked(text.read(), file)
    try:
        found = json.loads(whole)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":  # JSON Lines give this error
            raise DataError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
        yield from _lines(whole.split("\n"), file)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON that can be read: {error}") from error
    else:
        entries = found if isinstance(found, list) else [found]
        yield from ((f"{file}: entry {n}", entry) for n, entry in enumerate(entries, 1))


def _lines(lines: Iterable[str], file: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield f"{file}:{number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f'{file}:{number}: expected {{"text": …}} a line: {error}') from error


def _separated(file: Path, encoding: str, columns: Columns) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    with open_text(file, encoding, newline="") as text:
        delimiter, lines = _sniffed(text, file, columns)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        start = 1
        try:
            header: list[str] = []
            for fields in reader:
                if fields and not header:
                    header = fields
                elif fields:
                    yield f"{file}:{start}", _row(header, fields, f"{file}:{start}", delimiter)
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{file}:{start}: not a table: {error}") from error


def _sniffed(text: TextIO, file: Path, columns: Columns) -> tuple[str, Iterator[str]]:
    """Find the delimiter by the header, and return it with all lines."""
    lines, first = lines_of(text, file), list[str]()
    for line in lines:
        first.append(line)
        if line.strip():
            break
    header = first[-1] if first else ""
    found = {mark: next(csv.reader([header], delimiter=mark), []) for mark in DELIMITERS}
    fitting = [m for m, names in found.items() if any(same_name(n, columns.text) for n in names)]
    best = fitting or [max(found, key=lambda mark: len(found[mark]))]
    return best[0], chain(first, lines)


def _row(header: list[str], fields: list[str], place: str, delimiter: str) -> Mapping[str, str]:
    if len(fields) != len(header):
        raise DataError(
            f"{place}: {len(fields)} fields, but the header has {len(header)}; put a text that "
            f"holds {delimiter!r} in double quotes"
        )
    if len(set(header)) < len(header):
        raise DataError(f"{place}: two columns of the header have one name; rename one of them")
    return dict(zip(header, fields, strict=True))


def _parquet(file: Path, columns: Columns) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            if not table.metadata.num_rows:
                return  # an empty shard may have any columns
            name = columns.choose(table.schema_arrow.names, str(file))
            _check_type(table.schema_arrow.field(name).type, name, file)
            row = 0
            for batch in table.iter_batches(columns=[name]):
                for value in batch.column(0):
                    row += 1
                    yield f"{file}: row {row}", {name: _value(value, name, f"{file}: row {row}")}
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: not a .parquet table: {error}") from error


def _check_type(kind: Any, name: str, file: Path) -> None:
    """Raise `DataError` unless a column of this type is text, UTF-8 bytes or conversations."""
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    text = (
        types.is_string, types.is_large_string, types.is_string_view, types.is_null,
        types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary,
    )  # fmt: skip
    talk = types.is_list(inner) or types.is_large_list(inner)
    if not (
        any(is_kind(inner) for is_kind in text) or (talk and types.is_struct(inner.value_type))
    ):
        raise DataError(f"{file}: the column {name!r} holds {kind}, not text; give --column NAME")


def _value(scalar: Any, name: str, place: str) -> object:
    """Convert to a Python value; bytes are decoded, since some writers have no text type."""
    try:
        value = scalar.as_py()
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: {name} is not UTF-8 text ({error.reason})") from error
