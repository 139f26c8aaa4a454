"""`--set study.KEY=VALUE`: the amount of work of the routing study, and its parts."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from annotated_types import Gt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import ConfigError
from fedmore.sims.scenarios.overrides import override
from fedmore.sims.studies.routing.seeds import PARTS, Study
from fedmore.sims.studies.routing.variants import Size
from fedmore.strategies.settings import parse, said

PREFIX = "study."
Count = Annotated[int, Gt(0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Options:
    """The fields of `Size`, the routers by their slugs, and the further parts."""

    windows: Count
    tokens: Count
    steps: Count
    batch: Count
    table_steps: Count
    documents: Count
    rounds: Count
    client_steps: Count
    routers: tuple[str, ...]
    parts: tuple[str, ...]


def with_settings(study: Study, settings: Sequence[str]) -> Study:
    """Apply `settings` to the study; those with other names are for its federation."""
    mine = [each.removeprefix(PREFIX) for each in settings if each.startswith(PREFIX)]
    others = tuple(each for each in settings if not each.startswith(PREFIX))
    table = {"routers": [v.slug for v in study.variants], "parts": list(PARTS)}
    chosen = _options(override(asdict(study.size) | table, mine))
    _known("routers", chosen.routers, table["routers"])
    _known("parts", chosen.parts, table["parts"])
    work = {key: value for key, value in asdict(chosen).items() if key not in table}
    return replace(
        study,
        variants=tuple(v for v in study.variants if v.slug in chosen.routers),
        size=Size(**work),
        parts=tuple(part for part in PARTS if part in chosen.parts),
        settings=others,
    )


def _options(table: dict[str, Any]) -> Options:
    try:
        return parse(TypeAdapter(Options), table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"--set {PREFIX}{key}: {said(first)}") from error


def _known(key: str, asked: Sequence[str], known: Sequence[str]) -> None:
    if unknown := set(asked) - set(known):
        name = min(unknown)
        raise ConfigError(f"--set {PREFIX}{key}: no {name!r}; there are {', '.join(known)}")
