"""Reads documents from an owner's files.

A .txt or .md file is one document. A .jsonl, .json, .csv, .tsv or .parquet file has one document
per row, in its column `text` or in the one that the owner names. A row with `messages` is a
conversation. All but parquet may be compressed as .gz.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmore.experts.errors import ConfigError, DataError
from fedmore.experts.reading.columns import MESSAGES, TEXT, Columns, messages_of
from fedmore.experts.reading.files import KNOWN, find_files
from fedmore.experts.reading.formats import rows_of
from fedmore.experts.reading.notes import Notes
from fedmore.experts.text.control_tokens import unmarked

Converse = Callable[[list[dict[str, Any]]], str]
"""A function that turns a conversation into a document, such as a base's chat template."""

REPLACEMENT = "\ufffd"
_LONE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Format:
    """The owner's choices for reading files.

    `encoding` is for files without a byte order mark; empty means UTF-8. `column` holds the text.
    """

    encoding: str = ""
    column: str = TEXT

    def __post_init__(self) -> None:
        """Raise `ConfigError` for an unknown encoding."""
        try:
            text = not self.encoding or codecs.lookup(self.encoding)._is_text_encoding
        except (LookupError, ValueError):
            text = False
        if not text:
            raise ConfigError(f"--encoding {self.encoding}: no such encoding; try latin-1, cp1252")


@dataclass(frozen=True)
class Corpus:
    """An owner's documents, and a line for each kind of thing that was left out or changed."""

    documents: list[str]
    notes: tuple[str, ...]


def read_documents(
    path: Path, form: Format = Format(), converse: Converse | None = None
) -> list[str]:
    """Read all documents below `path` (a file or a folder), in order of file name.

    Raises `DataError` if the path cannot be read or holds no text.
    """
    return read_corpus(path, form, converse).documents


def read_corpus(path: Path, form: Format = Format(), converse: Converse | None = None) -> Corpus:
    """Do as `read_documents`, and also note what was left out."""
    notes = Notes()
    reader = _Reader(form.encoding, Columns(form.column, notes), converse, notes)
    files = _files(path, notes)
    documents = [text for file in files for text in reader.read(file)]
    if not documents:
        raise DataError(f"{path}: no text in it; expected files ending in {', '.join(KNOWN)}")
    return Corpus(documents, notes.lines())


def _files(path: Path, notes: Notes) -> list[Path]:
    if path.is_dir():
        return find_files(path, notes)
    if path.is_file():
        return [path]
    if path.exists():
        raise DataError(f"{path}: neither a file nor a folder; write the text to a file first")
    raise DataError(f"{path}: there is no such file or folder")


@dataclass(frozen=True)
class _Reader:
    encoding: str
    columns: Columns
    converse: Converse | None
    notes: Notes

    def read(self, file: Path) -> Iterator[str]:
        """Yield the documents of one file that are not blank."""
        empty = True
        for place, row in rows_of(file, self.encoding, self.columns):
            text = self._clean(self._text(row, place), file)
            if text.strip():
                empty = False
                yield text
        if empty:
            self.notes.add("files without text", file.name)

    def _text(self, row: object, place: str) -> str:
        if isinstance(row, str):
            return unmarked(row)
        if not isinstance(row, Mapping):
            raise DataError(f'{place}: expected {{"text": …}}, not {type(row).__name__}')
        name = self.columns.choose(list(row), place)
        value = row[name]
        if name == MESSAGES or (isinstance(value, list) and name == self.columns.text):
            return self._conversation(messages_of(value, place), place)
        if value is None:
            self.notes.add("rows without text left out", place)
            return ""
        if not isinstance(value, str):
            raise DataError(f"{place}: {name} is {type(value).__name__}, not a string")
        return unmarked(value)

    def _conversation(self, turns: list[dict[str, Any]], place: str) -> str:
        if self.converse is None:
            raise DataError(f"{place}: a conversation; only a base's chat template makes it text")
        self.notes.add("conversations, through the base's chat template")
        try:
            return self.converse(turns)
        except DataError as error:
            raise DataError(f"{place}: {error}") from error

    def _clean(self, text: str, file: Path) -> str:
        """Replace lone surrogates, which are no characters and which tokenizers reject."""
        cleaned, count = _LONE.subn(REPLACEMENT, text)
        if count:
            self.notes.add("documents with half a character (lone surrogate) replaced", file.name)
        return cleaned
