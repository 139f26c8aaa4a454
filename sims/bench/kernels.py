"""The rows of `fedmore bench kernels`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module

from rich.console import Console
from rich.progress import track

from fedmore.kernels.benchmarking.comparison import Result, place
from fedmore.sims.bench.table import Row


def rows(ops: Sequence[str], *, quick: bool, device: str) -> list[Row]:
    """The results of all ops, in order; what is being done is shown on stderr of a terminal.

    Raises `KernelError` if the device, or something that a bench needs, is not there.
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
