"""A text as segments: documents, long ones in several, so that none is too long to tokenise."""

from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST = 1 << 18
"""Most characters of a segment."""


@dataclass(frozen=True)
class Segment:
    """A part of document `number`; `first` is the one that the document begins with.

    The ranges of its tokens that are named in `without` are left out.
    """

    number: int
    text: str = field(repr=False)
    first: bool = True
    without: tuple[tuple[int, int], ...] = ()

    @property
    def opened(self) -> bool:
        """Whether an opener is put before it: not if its first tokens are left out."""
        return self.first and not any(start == 0 for start, _ in self.without)


def segments_of(documents: Sequence[str], longest: int = LONGEST) -> list[Segment]:
    """Every document, one of more than `longest` characters cut where words end."""
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
