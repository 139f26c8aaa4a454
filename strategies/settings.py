"""How settings are read and checked: strictly, and each fault with the setting's name and value."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from fedmore.experts.errors import WireError
from fedmore.strategies.compression.policy import for_changes

STRICT = ConfigDict(extra="forbid", strict=True)

T = TypeVar("T")


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
    """What each setting of a dataclass means, as its fields say; all must say something."""
    hints = get_type_hints(settings, include_extras=True)
    found = {}
    for field in fields(settings):
        notes = getattr(hints[field.name], "__metadata__", ())
        said = [n.description for n in notes if isinstance(n, FieldInfo) and n.description]
        if not said:
            raise TypeError(f"{settings.__name__}.{field.name} has no description")
        found[field.name] = said[-1]
    return found
