"""Splits a text into segments: documents, and parts of those that are too long to tokenise."""

from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST = 1 << 18
"""Maximum number of characters of a segment."""


@dataclass(frozen=True)
class Segment:
    """A part of document `number`; `first` marks the document's beginning.

    The ranges of its tokens in `without` are left out.
    """

    number: int
    text: str = field(repr=False)
    first: bool = True
    without: tuple[tuple[int, int], ...] = ()

    @property
    def opened(self) -> bool:
        """Whether it gets an opener; it gets none if its first tokens are left out."""
        return self.first and not any(start == 0 for start, _ in self.without)


def segments_of(documents: Sequence[str], longest: int = LONGEST) -> list[Segment]:
    """Return every document; one above `longest` characters is cut between words."""
    found = []
    for number, text in enumerate(documents):
        start = 0
        while start < len(text):
            end = _end(text, start, longest)
            found.append(Segment(number, text[start:end], start == 0))
            start = end
    return found


def _end(text: str, start: int, longest: int) -> int:
    if len(text) - start <= longest:
        return len(text)
    spaces = (text.rfind(mark, start + 1, start + longest) for mark in "\n ")
    return next((at for at in spaces if at > start), start + longest)
