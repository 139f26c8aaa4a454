"""Commands in this process, and processes of this machine."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from typer import Typer
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app as coordinator

T = TypeVar("T")


def run(*arguments: object, app: Typer = coordinator) -> str:
    """Run a command in this process; returns what it printed, raises what it raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def living_processes() -> Iterator[tuple[int, int]]:
    """Process and session id of every process that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if rest[0] != "Z":
            yield pid, int(rest[3])


def eventually(condition: Callable[[], T], within_s: float = 60.0) -> T:
    """Poll until `condition` is true, and return its value; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
    return value
