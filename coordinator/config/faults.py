"""What is wrong with a `federation.toml`, in words for the person who wrote it."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedmore.experts.errors import ConfigError
from fedmore.strategies.settings import Location, descriptions, dotted, said
from fedmore.strategies.stages.kinds import row_of

UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
"""pydantic's words for a key that the table has and its class has not."""


def explain(error: ValidationError, table: Mapping[str, Any], sections: Mapping[str, type]) -> str:
    """Every fault in one line: the dotted path, what is wrong there, and what the key means."""
    return "; ".join(_line(fault, table, sections) for fault in error.errors(include_url=False))


def _line(fault: ErrorDetails, table: Mapping[str, Any], sections: Mapping[str, type]) -> str:
    where, what = fault["loc"], said(fault)
    owner, rest = _owner(where, table, sections)
    known = descriptions(owner) if owner else dict.fromkeys(sections, "")
    if fault["type"] in UNKNOWN:
        return f"{dotted(where)}: {_unknown(str(where[-1]), known)}"
    key = rest[0] if rest else what.split()[0].rstrip(":,")
    meaning = known.get(str(key), "")
    path = f"{dotted(where)}: " if where else ""
    return f"{path}{what}" + (f" ({key}: {meaning})" if meaning else "")


def _owner(
    where: Location, table: Mapping[str, Any], sections: Mapping[str, type]
) -> tuple[type | None, Location]:
    """The class of the settings that a fault is about, and its place below them."""
    if where[:1] == ("stages",) and len(where) > 1:
        try:
            return row_of(table["stages"][where[1]]["kind"]).stage, where[2:]
        except (LookupError, TypeError, ConfigError):
            return None, ()
    return sections.get(str(where[0])) if where else None, where[1:]


def _unknown(key: str, known: Mapping[str, str]) -> str:
    near = get_close_matches(key, known, 1)
    if not near:
        return "there is no such key here"
    meaning = known[near[0]]
    return f"there is no such key here; {near[0]} is" + (f": {meaning}" if meaning else " one")
