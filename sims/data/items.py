"""A piece of text with its origin, which sources produce and splits consume."""

import re
import unicodedata
from dataclasses import dataclass

_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK = re.compile(r"\n{3,}")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Item:
    """`text` from `source`; all items of one `group` stay on one side of the split."""

    text: str
    source: str
    group: str


def clean(text: str) -> str:
    """Normalise to NFC, Unix line ends, no trailing blanks and at most one blank line in a row."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\f", "").replace("\x00", "").lstrip("\ufeff")
    return _BLANK.sub("\n\n", _TRAILING.sub("", text)).strip("\n")


def words(text: str) -> list[str]:
    """The words in lower case; two texts with equal words count as the same."""
    return _WORD.findall(text.casefold())


def cut(text: str, limit: int) -> str:
    """Cut to at most `limit` characters, at a paragraph or else at a line or word."""
    if len(text) <= limit:
        return text
    for mark in ("\n\n", "\n", " "):
        end = text.rfind(mark, limit // 2, limit)
        if end > 0:
            return text[:end].rstrip()
    return text[:limit]
