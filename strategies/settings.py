"""How settings are read and checked: strictly, and each fault with the setting's name and value."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedmore.experts.errors import RankError, WireError
from fedmore.experts.ranks import check_largest
from fedmore.strategies.compression.policy import for_changes

STRICT = ConfigDict(extra="forbid", strict=True)

T = TypeVar("T")

Location = tuple[int | str, ...]
"""Where in a table a fault is, as pydantic says it."""


def parse(
    adapter: TypeAdapter[T], table: Mapping[str, Any], context: Mapping[str, Any] | None = None
) -> T:
    """Read a table strictly; raises pydantic's `ValidationError`, whose `loc` is the path.

    Through JSON, where arrays are tuples and dataclasses are tables, yet "3" is not 3. A validator
    of a field may look into `context`.
    """
    return adapter.validate_json(json.dumps(dict(table), default=str), context=context)


def positive(**values: float) -> None:
    """Raise `ValueError`, naming value and field, unless every value is above zero."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")


def not_negative(**values: float) -> None:
    """Raise `ValueError`, naming value and field, unless every value is 0 or more."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, not {value}")


def part(**values: float) -> None:
    """Raise `ValueError`, naming value and field, unless every value is from 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, not {value}")


def patterned(rank: int, ranks: str) -> None:
    """Raise `ValueError` unless `rank` is the largest low rank of the pattern, if there is one."""
    try:
        check_largest(rank, ranks)
    except RankError as error:
        raise ValueError(str(error)) from error


def check_codecs(*texts: str) -> None:
    """Raise `ValueError` for what is neither a codec nor a policy, or not one for changes."""
    for text in texts:
        try:
            fits = for_changes(text)
        except WireError as error:
            raise ValueError(str(error)) from error
        if not fits:
            raise ValueError(f"codec {text!r} is for weights trained as bits: set weight_bits")


def descriptions(settings: type) -> dict[str, str]:
    """What each setting of a dataclass means, as its fields say; empty if one says nothing."""
    hints = get_type_hints(settings, include_extras=True)
    found = {}
    for field in fields(settings):
        notes = getattr(hints[field.name], "__metadata__", ())
        said = [n.description for n in notes if isinstance(n, FieldInfo) and n.description]
        found[field.name] = said[-1] if said else ""
    return found


def title(settings: type) -> str:
    """What a dataclass of settings is for: the first line of its docstring, without its stop."""
    return (settings.__doc__ or "").strip().splitlines()[0].rstrip(".")


def dotted(location: Location) -> str:
    """`("stages", 0, "rounds")` as `stages[0].rounds`; a key itself as the value that it names."""
    text = ""
    for part in location:
        if part == "[key]":
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def said(fault: ErrorDetails) -> str:
    """What a fault is, in one line; a check of ours is told without pydantic's words before it."""
    raised = fault.get("ctx", {}).get("error")
    text = str(raised) if isinstance(raised, ValueError) else fault["msg"]
    return " ".join(text.split())


def faults(error: ValidationError) -> str:
    """Every fault in one line: the dotted path of the key, and what is wrong with it."""
    told = ((dotted(each["loc"]), said(each)) for each in error.errors(include_url=False))
    return "; ".join(f"{where}: {what}" if where else what for where, what in told)


LONGEST = 400
"""Characters of a fault in something that another program sent: its text may be of any length."""


def one_line(error: Exception) -> str:
    """A fault of what another program sent: the first one, with where it is."""
    text = faults(error) if isinstance(error, ValidationError) else str(error)
    return text.splitlines()[0][:LONGEST] if text else type(error).__name__
