"""What is done already, means over seeds with 95 % Student intervals, and the JSON."""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fedmore.sims.data.texts import RECIPE


def kept(out: Path, name: str, make: Callable[[], Any], console: Console) -> Any:
    """A result that is worked out once and then read: a study that was stopped goes on."""
    path = out / "done" / f"{name}.json"
    if not path.is_file():
        console.print(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".writing")
        written.write_text(json.dumps(make()), encoding="utf-8")
        written.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, found: Mapping[str, Any]) -> Path:
    """Write what was found as JSON, with the command and the versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packages = ("fedmore", "torch", "transformers")
    about = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
            "texts": RECIPE,
        },
    }
    path.write_text(json.dumps(about | dict(found), indent=1) + "\n", encoding="utf-8")
    return path


def table(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], figures: Sequence[str]
) -> list[dict[str, Any]]:
    """A line for each case and value of `keys`: mean, low and high end of every figure."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in ("case", *keys)), []).append(row)
    return [
        dict(zip(("case", *keys), group, strict=True))
        | {name: interval([row[name] for row in found]) for name in figures}
        for group, found in groups.items()
    ]


def interval(values: Sequence[float]) -> list[float]:
    """Mean, low and high of numbers between 0 and 1; of one number that number alone."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return [round(mean, 4)]
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    ends = max(mean - half, 0.0), min(mean + half, 1.0)
    return [round(number, 4) for number in (mean, *ends)]
