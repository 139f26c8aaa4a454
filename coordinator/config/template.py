"""A configuration as `federation.toml`; `parse_config` reads it back to the same.

The short form leaves out what has its default; the full one has every key. In both a key has its
description beside it, which comes from the field.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

import tomlkit
from tomlkit.items import AoT, Table

from fedmore.coordinator.config import defaults
from fedmore.coordinator.config.schema import FederationConfig
from fedmore.strategies.settings import descriptions, title
from fedmore.strategies.stages.base import Stage

HEAD = """\
The plan of a federation. `coordinator start` reads it once, at its start. Unknown keys and wrong
types are errors, so nothing here is ignored."""

SHORT = """\
A key that is not here has its default. The page docs/reference/configuration.md lists all keys,
and `coordinator init --full` writes them all."""

STAGES = "The plan: its stages, in sequence."

OF_AN_APP = ("federation", "server")
"""The sections of a federation for another's Flower app."""


def render(config: FederationConfig, *, full: bool = False) -> str:
    """The configuration as TOML: what differs from the defaults, or with `full` every key."""
    document = tomlkit.document()
    for line in (HEAD if full else f"{HEAD}\n{SHORT}").splitlines():
        document.add(tomlkit.comment(line))
    edition = tomlkit.item(defaults.EDITION).comment("edition of the defaults; leave it as it is")
    document.add(defaults.KEY, edition)
    for field in fields(config):
        if config.federation.app and field.name not in OF_AN_APP:
            continue
        _add(document, field.name, getattr(config, field.name), full)
    return tomlkit.dumps(document)


def _add(document: tomlkit.TOMLDocument, name: str, value: Any, full: bool) -> None:
    """A section with what is to be written of it, if that is anything; or the stages."""
    if name == "stages":
        document.add(tomlkit.nl())
        document.add(tomlkit.comment(STAGES))
        document.add(name, _stages(value, full))
    elif keys := _written(value, full):
        document.add(tomlkit.nl())
        table = _table(value, keys, descriptions(type(value)))
        document.add(name, table.comment(title(type(value))))


def _stages(stages: Sequence[Stage], full: bool) -> AoT:
    """A key is commented where it stands for the first time."""
    array, told = tomlkit.aot(), set[str]()
    for stage in stages:
        keys = _written(stage, full)
        said = {k: text for k, text in descriptions(type(stage)).items() if k not in told}
        array.append(_table(stage, keys, said))
        told |= set(keys)
    return array


def _written(settings: Any, full: bool) -> list[str]:
    """The settings that are written: all, or those without their default and a stage's kind."""
    chosen = [f for f in fields(settings) if full or _differs(f, getattr(settings, f.name))]
    kind = ["kind"] if isinstance(settings, Stage) else []
    return list(dict.fromkeys([*kind, *(field.name for field in chosen)]))


def _differs(field: "Field[Any]", value: Any) -> bool:
    """Whether a setting is not what it is by default."""
    if field.default_factory is not MISSING:
        return bool(value != field.default_factory())
    return field.default is MISSING or bool(value != field.default)


def _table(settings: Any, keys: Collection[str], comments: Mapping[str, str]) -> Table:
    table = tomlkit.table()
    for key in keys:
        item = tomlkit.item(_listed(getattr(settings, key)))
        if meaning := comments.get(key):
            item.comment(meaning)
        table.add(key, item)
    return table


def _listed(value: Any) -> Any:
    """Tuples as lists, which TOML has."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
