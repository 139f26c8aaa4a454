"""The common form of the studies of rounds: cases on worlds, finished cases, and the JSON."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from fedmore.experts.errors import ConfigError
from fedmore.experts.former_names import STAGE, former
from fedmore.sims.data.texts import RECIPE
from fedmore.sims.studies.finished import kept, write
from fedmore.sims.studies.rounds.world import World, smollm_world, tiny_world
from fedmore.strategies.settings import faults, parse
from fedmore.strategies.stages.expert import ExpertStage

SEEDS: Mapping[str, Sequence[int]] = {"tiny": (0, 1, 2), "smollm2": (0,)}
"""The bases, and the seeds of each by default."""


class Case(Protocol):
    """What a study runs once for every seed; its name tells it from all others of the study."""

    @property
    def name(self) -> str:
        """What the case is kept under."""
        ...


C = TypeVar("C", bound=Case)
Row = dict[str, Any]

PLAIN: Mapping[str, Any] = {
    "codec": "fp32", "learning_rate": 1e-3, "round_start": "own", "server_learning_rate": 1.0,
    "server_momentum": 0.0,
}  # fmt: skip
"""What a study compares with: FedAvg over owners' own factors, whatever the defaults are."""


@dataclass(frozen=True)
class Study(Generic[C]):
    """A study: `cases` of a world and a seed, each of which gives rows of the list `key`.

    `settings` are those of a stage. `finished` is given all rows and returns them as they are
    written, with the table of the goals. `quick` is true for a run of the whole path.
    """

    name: str
    key: str
    settings: Mapping[str, Any]
    cases: Callable[[World, int, bool], Iterable[C]]
    rows: Callable[[World, C, int, ExpertStage], Sequence[Row]]
    finished: Callable[[Sequence[Row]], tuple[Sequence[Row], Mapping[str, Any]]]

    def run(
        self,
        *,
        out: Path,
        seeds: Sequence[int] | None = None,
        quick: bool = False,
        engine: str = "local",
        settings: Sequence[str] = (),
        results_in: Path | None = None,
        console: Console,
    ) -> Path:
        """Run what is not there yet and write the study's JSON; returns its path."""
        if engine != "local":
            raise ConfigError(f"--engine {engine}: the study {self.name} runs in one process")
        wanted, only, some = _choices(settings)
        values = {**self.settings, **({"steps": 3} if quick else {})}
        bases, stage = _read(wanted, values)
        rows: list[Row] = []
        for world, seed in worlds(out, bases, some or seeds, quick=quick):
            for case in self.cases(world, seed, quick):
                if only and not any(part in case.name for part in only):
                    continue
                path = out / "done" / f"{world.name}-{seed}-{case.name}".replace(" ", "-")
                path = path.with_name(f"{path.name}-{_mark(stage)}.json")
                rows += kept(path, partial(self.rows, world, case, seed, stage), console.print)
        if not rows:
            raise ConfigError(f"--set only={', '.join(only)}: no case of the study {self.name}")
        return self._write(results_in or out, rows)

    def _write(self, folder: Path, rows: Sequence[Row]) -> Path:
        finished, goals = self.finished(rows)
        seeds = sorted({row["seed"] for row in rows})
        found = {"seeds": seeds, "goals": goals, self.key: list(finished)}
        return write(folder / f"{self.name}.json", found)


def worlds(
    out: Path, bases: Sequence[str], seeds: Sequence[int] | None, *, quick: bool
) -> Iterator[tuple[World, int]]:
    """Every base with every seed; `quick` is one seed of the tiny base on generated text."""
    if quick:
        seed = (seeds or (0,))[0]
        yield tiny_world(out / "tiny", seed, real=False, steps=30), seed
        return
    for base in bases:
        for seed in seeds or SEEDS[base]:
            yield tiny_world(out / "tiny", seed) if base == "tiny" else smollm_world(), seed


def _choices(settings: Sequence[str]) -> tuple[list[str], list[str], list[int]]:
    """The settings without those that choose cases; the texts of `only=TEXT`, and the seeds.

    A case runs if its name contains one of the texts. Seeds are given as `seeds=0,1`.
    """
    only = [text.removeprefix("only=") for text in settings if text.startswith("only=")]
    seeds = [text.removeprefix("seeds=") for text in settings if text.startswith("seeds=")]
    rest = [text for text in settings if not text.startswith(("only=", "seeds="))]
    try:
        return rest, only, [int(seed) for text in seeds for seed in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--set seeds={','.join(seeds)}: expected numbers as in 0,1") from error


def _mark(stage: ExpertStage) -> str:
    """A mark of the stage and of the texts, so that rows of another setting are never used."""
    first, last = stage.layers  # settings of every stage when the first rows were written
    known = former(stage.table(), STAGE) | {"first_layers": first, "last_layers": last}
    told = json.dumps([known, RECIPE], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _read(settings: Sequence[str], values: Mapping[str, Any]) -> tuple[list[str], ExpertStage]:
    """The bases and the stage: settings like `steps=4`, and `base=tiny` for one base alone."""
    changed, bases = dict(values), list(SEEDS)
    for text in settings:
        key, sep, value = text.partition("=")
        if not sep:
            raise ConfigError(f"--set {text}: expected KEY=VALUE, a key of a stage or base")
        if key == "base":
            if value not in SEEDS:
                raise ConfigError(f"--set {text}: the bases of a study are {', '.join(SEEDS)}")
            bases = [value]
            continue
        try:
            changed[key] = json.loads(value)
        except json.JSONDecodeError:
            changed[key] = value
    try:
        made = parse(TypeAdapter(ExpertStage), {"kind": "experts", **PLAIN, **changed})
    except ValidationError as error:
        raise ConfigError(f"--set {faults(error)}") from error
    return bases, made
