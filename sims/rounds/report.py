"""What the studies of rounds share: worlds, settings, what is done already, and the JSON."""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console

from fedmore.experts.errors import ConfigError
from fedmore.sims.rounds.world import World, smollm_world, tiny_world
from fedmore.strategies.plan import Stage, parse

SEEDS = (0, 1, 2)


def worlds(out: Path, seeds: Sequence[int] | None, *, quick: bool) -> Iterator[tuple[World, int]]:
    """The tiny base and then SmolLM2, each with every seed; `quick` is one seed of the first."""
    for seed in seeds or (SEEDS[:1] if quick else SEEDS):
        yield tiny_world(out / "tiny", seed, 30 if quick else 300), seed
    if not quick:
        for seed in seeds or SEEDS:
            yield smollm_world(out, seed), seed


def stage(settings: Sequence[str], **values: Any) -> Stage:
    """A stage of these values, changed by settings like `steps=4`."""
    changed = dict(values)
    for text in settings:
        key, sep, value = text.partition("=")
        if not sep:
            raise ConfigError(f"--set {text}: expected KEY=VALUE, a key of a stage")
        try:
            changed[key] = json.loads(value)
        except json.JSONDecodeError:
            changed[key] = value
    return parse(TypeAdapter(Stage), {"kind": "experts", "codec": "fp32", **changed})


def kept(out: Path, name: str, make: Callable[[], Any], console: Console) -> Any:
    """A result that is computed once and then read: a study that was stopped goes on."""
    path = out / "done" / f"{name}.json".replace(" ", "-")
    if not path.is_file():
        console.print(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(make())
        path.with_suffix(".writing").write_text(text, encoding="utf-8")
        path.with_suffix(".writing").replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def write(folder: Path, name: str, rows: Sequence[Any], key: str) -> Path:
    """Write `NAME.json` with the command, the versions, the seeds and the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("fedmore", "torch", "transformers")},
        },
        "seeds": sorted({row["seed"] for row in rows}),
        key: list(rows),
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return path
