"""A mixture on disk: which base, which experts with which digest, which router.

``mixture.json`` beside ``router.safetensors`` and ``experts/NAME.safetensors``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedmore.experts.base import Base
from fedmore.experts.errors import BaseError, ConfigError, RegistryError
from fedmore.experts.factors import Kept
from fedmore.experts.kept import from_state, to_state
from fedmore.experts.mixture import Mixture, assemble
from fedmore.experts.names import check_name
from fedmore.experts.routing.interface import Router
from fedmore.experts.routing.saved import restore_router

FILE = "mixture.json"


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
        """Raise `ConfigError` for a name that is no plain one: it names the expert's file."""
        check_name(self.name)


@dataclass(frozen=True)
class Recipe:
    """What a mixture is made of; `router` is its `RouterSpec` as a table."""

    base: str
    fingerprint: str
    router: dict[str, Any]
    experts: tuple[Entry, ...]


def save_mixture(
    directory: Path, recipe: Recipe, experts: Mapping[str, Kept], router: Router
) -> None:
    """Write the mixture; `mixture.json` comes last, so a folder that has it is whole.

    Experts are written as they are kept. Raises `ConfigError` for a name that is no plain one.
    """
    for name in experts:
        check_name(name)
    folder = directory / "experts"
    folder.mkdir(parents=True, exist_ok=True)
    (directory / FILE).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    for name, factors in experts.items():
        save_file(to_state(factors), folder / f"{name}.safetensors")
    state = {name: tensor.cpu().contiguous() for name, tensor in router.state_dict().items()}
    save_file(state, directory / "router.safetensors")
    (directory / FILE).write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")


def read_recipe(directory: Path) -> Recipe:
    """What the mixture in `directory` is made of; raises `RegistryError` where there is none."""
    try:
        table: dict[str, Any] = json.loads((directory / FILE).read_text(encoding="utf-8"))
        entries = tuple(Entry(**entry) for entry in table.pop("experts"))
        return Recipe(**table, experts=entries)
    except FileNotFoundError:
        raise RegistryError(
            f"{directory}: no mixture; `coordinator assemble DIR` makes one in DIR/mixture"
        ) from None
    except (ConfigError, ValueError, TypeError, KeyError) as error:
        raise RegistryError(f"{directory / FILE}: damaged ({error}); assemble it again") from error


def load_experts(directory: Path, recipe: Recipe) -> dict[str, Kept]:
    """Every expert's change as it is kept, in the router's order."""
    folder = directory / "experts"
    return {e.name: _expert(folder / f"{e.name}.safetensors") for e in recipe.experts}


def load_router_of(directory: Path) -> tuple[Recipe, Router]:
    """A mixture's recipe and router, without its experts."""
    recipe = read_recipe(directory)
    return recipe, restore_router(recipe.router, _tensors(directory / "router.safetensors"))


def load_mixture(directory: Path, base: Base) -> Mixture:
    """The mixture over `base`; raises `BaseError` when it was made over another one."""
    recipe, router = load_router_of(directory)
    if recipe.fingerprint != base.fingerprint:
        raise BaseError(
            f"{directory}: made over {recipe.base} ({recipe.fingerprint}), not {base.fingerprint}"
        )
    return assemble(base.model, load_experts(directory, recipe), router)


def _expert(file: Path) -> Kept:
    try:
        return from_state(_tensors(file))
    except (KeyError, ValueError, RuntimeError) as error:
        raise RegistryError(f"{file}: damaged ({error}); assemble it again") from error


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (OSError, SafetensorError) as error:
        raise RegistryError(f"{file}: missing or damaged ({error}); assemble it again") from error
