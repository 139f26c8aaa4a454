"""Finds the column that holds an owner's text or conversations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmore.experts.errors import DataError
from fedmore.experts.reading.notes import Notes

TEXT, MESSAGES = "text", "messages"


@dataclass(frozen=True)
class Columns:
    """The wanted column: `text`, or the owner's choice; a near match is noted."""

    text: str = TEXT
    notes: Notes = field(default_factory=Notes)

    def choose(self, names: Sequence[str], place: str) -> str:
        """Choose the column to read; raises `DataError`, which lists the columns, if none fits.

        A column whose name differs only in case or blanks is accepted and noted.
        """
        if self.text in names:
            return self.text
        near = [name for name in names if same_name(name, self.text)]
        if len(near) == 1:
            self.notes.add(f"rows whose column {near[0]!r} is used as {self.text!r}")
            return near[0]
        if self.text == TEXT and MESSAGES in names:
            return MESSAGES
        raise DataError(
            f"{place}: no column named {self.text}, only {_listed(names)}; "
            "name the one that holds the text with --column NAME"
        )


def same_name(name: object, wanted: str) -> bool:
    """Whether two names of columns are equal apart from case and blanks."""
    return isinstance(name, str) and name.strip().casefold() == wanted.strip().casefold()


def messages_of(value: object, place: str) -> list[dict[str, Any]]:
    """Check a conversation; raises `DataError` unless every turn has a role and a content."""
    turns = value if isinstance(value, list) else []
    if not turns or not all(_is_turn(turn) for turn in turns):
        raise DataError(
            f'{place}: {MESSAGES} must be a list of {{"role": …, "content": …}}, both of them text'
        )
    return [dict(turn) for turn in turns]


def _is_turn(turn: object) -> bool:
    return isinstance(turn, Mapping) and all(
        isinstance(turn.get(k), str) for k in ("role", "content")
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
