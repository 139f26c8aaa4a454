"""Documents read from an owner's files."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmore.experts.errors import DataError

PLAIN = (".txt", ".md")
TABLES = {".csv": "csv", ".parquet": "parquet"}
KNOWN = (*PLAIN, ".jsonl", *TABLES)


def read_documents(path: Path) -> list[str]:
    """All documents below `path` (a file or a folder), in order of file name.

    A .txt or .md file is one document; a .jsonl, .csv or .parquet file is one a row, in its column
    `text`. Raises `DataError` when the path cannot be read or holds no text.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    documents = [text for file in _files(path) for text in _read(file) if text.strip()]
    if not documents:
        raise DataError(f"{path}: no text in it; expected files ending in {', '.join(KNOWN)}")
    return documents


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    try:
        return sorted(f for f in path.rglob("*") if f.suffix in KNOWN and f.is_file())
    except OSError as error:
        raise DataError(f"{path}: cannot be listed: {error.strerror}") from error


def _read(file: Path) -> Iterator[str]:
    try:
        if file.suffix in PLAIN:
            yield file.read_text(encoding="utf-8")
        elif file.suffix == ".jsonl":
            yield from _lines(file)
        elif file.suffix in TABLES:
            yield from _table(file)
        else:
            raise DataError(f"{file}: unknown kind of file; known are {', '.join(KNOWN)}")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: {error}") from error


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f'{file}:{number}: expected {{"text": …}} a line') from error
            if not isinstance(text, str):
                raise DataError(f"{file}:{number}: text is {type(text).__name__}, not a string")
            yield text


def _table(file: Path) -> Iterator[str]:
    # A cache of its own, gone afterwards: private text is not left in a shared cache folder.
    with tempfile.TemporaryDirectory() as cache:
        rows = _load(file, cache)
        if "text" not in rows.column_names:
            raise DataError(f"{file}: no column named text, only {', '.join(rows.column_names)}")
        yield from (str(text) for text in rows["text"] if text is not None)


def _load(file: Path, cache: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    kind = TABLES[file.suffix]
    try:
        return load_dataset(
            kind, data_files=str(file), split="train", cache_dir=cache, keep_in_memory=True
        )
    except (DatasetsError, ValueError) as error:
        cause = error.__cause__ or error
        raise DataError(f"{file}: not a {file.suffix} table: {cause}") from error
