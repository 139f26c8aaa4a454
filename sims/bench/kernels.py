"""The rows of `fedmore bench kernels`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module

from rich.console import Console
from rich.progress import track

from fedmore.kernels.bench import Result
from fedmore.sims.bench.table import Row


def rows(ops: Sequence[str], *, quick: bool) -> list[Row]:
    """The results of all ops, in order; what is being done is shown on stderr of a terminal."""
    console = Console(stderr=True)
    steps = track(
        _results(ops, quick), "measuring", console=console, disable=not console.is_terminal
    )
    return [asdict(result) for result in steps]


def _results(ops: Sequence[str], quick: bool) -> Iterator[Result]:
    for op in ops:
        yield from import_module(f"fedmore.kernels.{op}.bench").results(quick)
