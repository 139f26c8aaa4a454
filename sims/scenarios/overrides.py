"""`--set stages.0.steps=5`: change one value of a scenario's table by its dotted path."""

import copy
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from fedmore.experts.errors import ConfigError


def override(table: Mapping[str, object], settings: Iterable[str]) -> dict[str, Any]:
    """A changed copy of `table`; raises `ConfigError` with the dotted path of a bad setting.

    A value is read as TOML, or as text if it is not valid TOML. The later validation of the table
    refuses unknown keys.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(table))
    for setting in settings:
        path, sign, text = setting.partition("=")
        if not sign or not all(path.split(".")):
            raise ConfigError(f"--set {setting}: write it as dotted.path=value")
        *parents, last = path.split(".")
        node: Any = changed
        for part in parents:
            node = _step(node, part, path)
        _assign(node, last, _value(text), path)
    return changed


def _step(node: Any, part: str, path: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, path)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise ConfigError(f"--set {path}: {part!r} is below a value that has no parts")


def _assign(node: Any, last: str, value: object, path: str) -> None:
    if isinstance(node, list):
        node[_index(node, last, path)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {path}: {last!r} is below a value that has no parts")


def _index(node: list[Any], part: str, path: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise ConfigError(f"--set {path}: {part!r} is not an index from 0 to {len(node) - 1}")
    return int(part)


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
