"""Helpers of all studies: results that are computed once, and the final JSON."""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fedmore.experts.scoring.intervals import ratio_interval
from fedmore.sims.data.texts import RECIPE

PACKAGES = ("fedmore", "torch", "transformers")


def kept(path: Path, compute: Callable[[], Any], say: Callable[[str], None]) -> Any:
    """Read a result from a file, or compute and write it, so that a stopped study can continue.

    The file is written in one step. `say` gets the name of what is computed.
    """
    if not path.is_file():
        say(path.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".writing")
        written.write_text(json.dumps(compute()), encoding="utf-8")
        written.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, found: Mapping[str, Any], packages: Sequence[str] = PACKAGES) -> Path:
    """Write results as JSON, with the command and the versions of `packages`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    about = {"command": command(), "versions": versions | {"texts": RECIPE}}
    path.write_text(json.dumps(about | dict(found), indent=1) + "\n", encoding="utf-8")
    return path


def command() -> str:
    """The user's command, without paths of this machine."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % interval of a mean over seeds (Student's t); None for a single seed."""
    found = ratio_interval(values, np.ones(len(values)))
    return None if found is None else list(found)
