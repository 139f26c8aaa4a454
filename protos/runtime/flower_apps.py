"""Loads a foreign Flower app, given as `module:object`, and its `key=value` options."""

import importlib
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fedmore.experts.errors import ConfigError
from fedmore.protos.enrolment.federation_info import Value
from fedmore.protos.wire.status import describe

__all__ = ["Value", "load_app", "published", "split", "values"]

T = TypeVar("T")


def split(reference: str) -> tuple[str, str]:
    """Split `module:object`; raises `ConfigError` for any other form."""
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise ConfigError(f"--app {reference}: write it as module:object, such as server:app")
    return module, attribute


def load_app(reference: str, kind: type[T]) -> T:
    """Import the app from the current folder or from installed packages.

    Raises `ConfigError` if it is missing, cannot be imported, or is not a `kind`.
    """
    name, attribute = split(reference)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: object = _import(reference, name, here)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"--app {reference}: the module {name} has no {attribute!r}")
        found = getattr(found, part)
    if not isinstance(found, kind):
        raise ConfigError(
            f"--app {reference}: that is a {type(found).__name__}, not a Flower {kind.__name__}"
        )
    return found


def _import(reference: str, name: str, here: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"--app {reference}: {name} needs {error.name!r}") from error
        raise ConfigError(
            f"--app {reference}: there is no module {error.name!r} in {here}, nor one installed"
        ) from None
    except Exception as error:  # a module's import may raise anything
        raise ConfigError(f"--app {reference}: importing it raised {describe(error)}") from error


def values(pairs: Iterable[str], option: str) -> dict[str, Value]:
    """Parse `key=value` pairs; a value is read as TOML, or as text if it is not valid TOML.

    Raises `ConfigError`, which names `option`, for any other form.
    """
    found: dict[str, Value] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"{option} {pair}: write it as key=value")
        value = _value(text)
        if not isinstance(value, Value):
            raise ConfigError(f"{option} {pair}: a value is a number, true, false or text")
        found[key.strip()] = value
    return found


def published(reference: str, folder: Path) -> dict[str, Value]:
    """The run config in `folder`/pyproject.toml, if that file publishes `reference` as ServerApp.

    Tables are flattened with dots between the keys, as in Flower. Raises `ConfigError` if the file
    cannot be read.
    """
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    app = table.get("tool", {}).get("flwr", {}).get("app", {})
    if app.get("components", {}).get("serverapp") != reference:
        return {}
    return dict(_flat("", app.get("config", {})))


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
