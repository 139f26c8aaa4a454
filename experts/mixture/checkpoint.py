"""A mixture on disk: its base, its experts and its router, all with digests.

``mixture.json`` lies beside ``router.safetensors`` and ``experts/NAME.safetensors``. It holds their
digests and one of itself. A file that does not match its digest is not loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedmore.experts.base.fingerprint import explain
from fedmore.experts.base.model import Base
from fedmore.experts.errors import BaseError, ConfigError, FedmoreError, RegistryError
from fedmore.experts.factors import Kept
from fedmore.experts.mixture.model import Mixture, assemble
from fedmore.experts.names import check_name
from fedmore.experts.quantized import from_state, to_state
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.serialization import restore_router

FILE, ROUTER = "mixture.json", "router.safetensors"
DIGEST = "digest"
"""Key of the recipe's own digest in its file."""
AGAIN = "`coordinator assemble DIR` makes it again"


@dataclass(frozen=True)
class Entry:
    """One expert of a mixture; `digest` is that of its registry version."""

    name: str
    kind: str
    target: str
    rank: int
    params: int
    digest: str

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless the name is valid, since it becomes the name of a file."""
        check_name(self.name)


@dataclass(frozen=True)
class Recipe:
    """The parts of a mixture; `router` is its `RouterSpec` as a table.

    `without` is a fingerprint of the owners who had withdrawn when it was made. `files` has the
    SHA-256 of every other file; in a mixture of an earlier version of fedmore it is empty.
    """

    base: str
    fingerprint: str
    router: dict[str, Any]
    experts: tuple[Entry, ...]
    without: str = ""
    files: dict[str, str] = field(default_factory=dict, compare=False)


def save_mixture(
    directory: Path, recipe: Recipe, experts: Mapping[str, Kept], router: Router
) -> None:
    """Write the mixture; `mixture.json` is written last, so a folder that has it is complete.

    Experts are written in their storage, float32 or sign1. Raises `ConfigError` for an invalid
    name.
    """
    for name in experts:
        check_name(name)
    folder = directory / "experts"
    folder.mkdir(parents=True, exist_ok=True)
    (directory / FILE).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    for name, factors in experts.items():
        save_file(to_state(factors), directory / file_of(name))
    state = {name: tensor.cpu().contiguous() for name, tensor in router.state_dict().items()}
    save_file(state, directory / ROUTER)
    names = [ROUTER, *map(file_of, experts)]
    table = asdict(recipe) | {"files": {name: _digest(directory / name) for name in names}}
    text = json.dumps(table | {DIGEST: _mark(table)}, indent=2) + "\n"
    (directory / FILE).write_text(text, encoding="utf-8")


def file_of(expert: str) -> str:
    """Relative path of an expert's file in a mixture's folder."""
    return f"experts/{expert}.safetensors"


def forget_mixture(directory: Path) -> bool:
    """Remove the mixture in `directory` after an owner withdrew; returns whether there was one."""
    there = (directory / FILE).exists()
    (directory / FILE).unlink(missing_ok=True)
    for file in [directory / ROUTER, *(directory / "experts").glob("*.safetensors")]:
        file.unlink(missing_ok=True)
    return there


def read_recipe(directory: Path) -> Recipe:
    """Read the recipe in `directory`; raises `RegistryError` if it is missing or damaged."""
    try:
        table: Any = json.loads((directory / FILE).read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError("not a table")
        if table.pop(DIGEST, _mark(table)) != _mark(table):
            raise ValueError("its own digest does not match")
        entries = tuple(Entry(**entry) for entry in table.pop("experts"))
        return Recipe(**table, experts=entries)
    except FileNotFoundError:
        raise RegistryError(
            f"{directory}: no mixture; `coordinator assemble DIR` makes one in DIR/mixture"
        ) from None
    except (ConfigError, ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise RegistryError(f"{directory / FILE}: damaged ({error}); {AGAIN}") from error


def load_experts(directory: Path, recipe: Recipe) -> dict[str, Kept]:
    """Load every expert's change in its storage, in the router's order."""
    return {e.name: _expert(directory, file_of(e.name), recipe) for e in recipe.experts}


def load_router_of(directory: Path) -> tuple[Recipe, Router]:
    """Load a mixture's recipe and router, without its experts."""
    recipe = read_recipe(directory)
    state = _tensors(directory, ROUTER, recipe)
    try:
        return recipe, restore_router(recipe.router, state)
    except (FedmoreError, ValueError, KeyError) as error:
        raise RegistryError(f"{directory / ROUTER}: damaged ({error}); {AGAIN}") from error


def load_mixture(directory: Path, base: Base) -> Mixture:
    """Load the mixture over `base`; raises `BaseError` if it was made over another base."""
    recipe, router = load_router_of(directory)
    if recipe.fingerprint != base.fingerprint:
        raise BaseError(
            f"{directory}: made over {recipe.base} ({recipe.fingerprint}), not {base.fingerprint}"
            f"{explain(base.fingerprint, recipe.fingerprint)}"
        )
    return assemble(base.model, load_experts(directory, recipe), router)


def _expert(directory: Path, name: str, recipe: Recipe) -> Kept:
    tensors = _tensors(directory, name, recipe)
    try:
        return from_state(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise RegistryError(f"{directory / name}: damaged ({error}); {AGAIN}") from error


def _tensors(directory: Path, name: str, recipe: Recipe) -> dict[str, Tensor]:
    file = directory / name
    try:
        if recipe.files.get(name, found := _digest(file)) != found:
            raise ValueError("its digest is not the one in mixture.json")
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (OSError, SafetensorError, ValueError) as error:
        raise RegistryError(f"{file}: missing or damaged ({error}); {AGAIN}") from error


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _mark(table: Mapping[str, Any]) -> str:
    """Digest of a recipe's table, independent of the layout of the JSON text."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
