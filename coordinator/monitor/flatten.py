"""Flattens nested values to dotted names for trackers."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(value: object, dot: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and sequences, each with its path joined by `dot`."""
    if isinstance(value, (list, tuple)):
        value = {str(index): inner for index, inner in enumerate(value)}
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from flatten(inner, dot, f"{prefix}{dot}{key}" if prefix else str(key))


def key_of(name: str) -> str:
    """Replace characters that MLflow does not allow in a key by `_`."""
    return "".join(c if c.isalnum() or c in "/_-. " else "_" for c in name)
