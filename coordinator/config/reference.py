"""The page `docs/reference/configuration.md`, made from the settings' own descriptions.

python -m fedmore.coordinator.config.reference docs/reference/configuration.md
"""

import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from fedmore.coordinator.config.schema import SECTIONS
from fedmore.experts.former_names import ROUTER, SERVER, STAGE
from fedmore.strategies.settings import descriptions, title
from fedmore.strategies.stages.kinds import KINDS

COMMAND = "python -m fedmore.coordinator.config.reference docs/reference/configuration.md"

HEAD = f"""\
# federation.toml

Every key of every section, with its type, its default and what it means. `coordinator init` writes
a file with the keys that differ from their default, `coordinator init --full` one with all of them.
A wrong key or value stops every command with the dotted path of the key. Relative paths start at
the federation's folder. [federation.md](../federation.md) leads through the steps.

`defaults`, above all sections, is the edition of the defaults that the file relies on. A file keeps
its meaning in a later version, even if a default is another one there; leave the number as it is.

This page is made from the code by `{COMMAND}`."""

STAGES = """\
## `[[stages]]`

The stages of the plan, in sequence, each kind once. A stage has the keys of its kind and no
others."""

NAMES = """\
## Names of earlier versions

A file may still use these names, though not both names of one setting. What clients and coordinator
exchange, and what routers' files hold, keeps them, so that versions understand each other."""

WORDS: Mapping[Any, str] = {
    str: "text", int: "integer", float: "number", bool: "true or false"
}  # fmt: skip


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        if name == "router":
            parts += [STAGES, *(_kind(kind) for kind in KINDS)]
        parts.append(f"## `[{name}]`\n\n{title(section)}.\n\n{_table(section)}")
    return "\n\n".join([*parts, f"{NAMES}\n\n{_former_names()}"]) + "\n"


def _kind(kind: str) -> str:
    stage = KINDS[kind].stage
    return f'### `kind = "{kind}"`\n\n{title(stage)}.\n\n{_table(stage)}'


def _table(settings: type) -> str:
    """A row for each setting: key, type, default, description."""
    hints, meanings = get_type_hints(settings, include_extras=True), descriptions(settings)
    rows = [
        ("key", "type", "default", "what it is"),
        ("---", "---", "---", "---"),
        *(
            (f"`{each.name}`", type_of(hints[each.name]), _default(each), meanings[each.name])
            for each in fields(settings)
            if each.name != "kind" or settings in SECTIONS.values()
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def type_of(hint: Any) -> str:
    """A type as a reader of TOML would call it; the values, if there are only some."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_of(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return ", ".join(type_of(each) for each in arguments)
    if origin is tuple:
        kept = [each for each in arguments if each is not Ellipsis]
        return _sequence([type_of(each) for each in kept], Ellipsis in arguments)
    if origin is dict:
        return f"table of name = {type_of(arguments[1])}"
    return WORDS[hint]


def _sequence(kinds: list[str], many: bool) -> str:
    """A list of any length, or one with a value of each kind."""
    return f"list of {kinds[0]}" if many else f"[{', '.join(kinds)}]"


def _default(field: "Field[Any]") -> str:
    if field.default_factory is not MISSING:
        return "none"
    return "required" if field.default is MISSING else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _former_names() -> str:
    return "\n".join(["| where | was | is |", "|---|---|---|", *_former_rows()])


def _former_rows() -> Iterator[str]:
    for where, renamed in (("[server]", SERVER), ("[[stages]]", STAGE), ("[router]", ROUTER)):
        for old, new in renamed.items():
            words = [f"`{a}` → `{b}`" for a, b in new.values.items()]
            values = f" ({', '.join(words)})" if words else ""
            yield f"| `{where}` | `{old}` | `{new.name}`{values} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
