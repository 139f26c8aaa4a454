"""A piece of text and where it came from; what every source gives and every split takes."""

import re
import unicodedata
from dataclasses import dataclass

_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK = re.compile(r"\n{3,}")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Item:
    """`text` out of `source`; everything of one `group` stays on one side of the split."""

    text: str
    source: str
    group: str


def clean(text: str) -> str:
    """UTF-8 NFC, Unix line ends, no trailing blanks, at most one blank line in a row."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\f", "").replace("\x00", "").lstrip("\ufeff")
    return _BLANK.sub("\n\n", _TRAILING.sub("", text)).strip("\n")


def words(text: str) -> list[str]:
    """The words alone, without case: two texts are the same when these are."""
    return _WORD.findall(text.casefold())


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, ending at a paragraph or, failing that, a line or a word."""
    if len(text) <= limit:
        return text
    for mark in ("\n\n", "\n", " "):
        end = text.rfind(mark, limit // 2, limit)
        if end > 0:
            return text[:end].rstrip()
    return text[:limit]
