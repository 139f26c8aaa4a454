"""The rows of `fedmore bench kernels`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module

from rich.console import Console
from rich.progress import track

from fedmore.kernels.benchmarking.comparison import Result, place
from fedmore.sims.bench.table import Row


def rows(ops: Sequence[str], *, quick: bool, device: str) -> list[Row]:
    """Run the benches of all ops in order, with progress on stderr if it is a terminal.

    Raises `KernelError` if the device or a library that a bench needs is missing.
    """
    console = Console(stderr=True)
    steps = track(
        _results(ops, quick, device), "measuring", console=console, disable=not console.is_terminal
    )
    return [asdict(result) for result in steps]


def _results(ops: Sequence[str], quick: bool, device: str) -> Iterator[Result]:
    where = place(device)
    for op in ops:
        yield from import_module(f"fedmore.kernels.{op}.bench").results(quick, where)
