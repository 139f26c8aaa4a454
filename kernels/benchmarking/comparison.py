"""Times a kernel and an opponent in turn, in one process, after their results were found equal.

Every op has `kernels/<op>/bench.py` with ``results(quick, device) -> Iterator[Result]``.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedmore.kernels.errors import KernelError

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Result:
    """One measurement; `ours` and `opponent` are medians in `unit`, and less is better.

    `ratio` is the opponent's figure divided by ours, and `goal` is what it should be. Both are None
    without an opponent. If the results differed, `verified` is false and nothing was timed.
    """

    name: str
    case: str
    ours: float | None
    opponent: float | None
    opponent_name: str | None
    unit: str
    ratio: float | None
    goal: float | None
    verified: bool


def compare(
    name: str,
    case: str,
    ours: Callable[[], Any],
    opponent: Callable[[], Any],
    *,
    opponent_name: str,
    verify: Callable[[], bool],
    goal: float | None = None,
    repeats: int = 15,
    opponent_repeats: int | None = None,
) -> Result:
    """Time `ours` and `opponent` in turn, in milliseconds, if `verify` returns true.

    Args:
        name: the op and what it does, as the report shows it.
        case: sizes, dtype and threads, as the report shows them.
        ours: one run of our form.
        opponent: one run of what it is compared with.
        opponent_name: the opponent, as the report shows it.
        verify: whether both give equal results; runs once, before the timing.
        goal: the ratio that ours should reach.
        repeats: timed runs of ours.
        opponent_repeats: timed runs of the opponent, if fewer because each takes minutes.

    """
    opponent_repeats = opponent_repeats or repeats
    if opponent_repeats != repeats:
        opponent_name += f" (runs: {opponent_repeats}, of ours {repeats})"
    if not verify():
        return Result(name, case, None, None, opponent_name, "ms", None, goal, verified=False)
    ours_ms, opponent_ms = in_turn(ours, opponent, repeats, opponent_repeats)
    ratio = opponent_ms / ours_ms
    return Result(name, case, ours_ms, opponent_ms, opponent_name, "ms", ratio, goal, verified=True)


def in_turn(
    ours: Callable[[], Any], opponent: Callable[[], Any], repeats: int, opponent_repeats: int
) -> tuple[float, float]:
    """Medians of alternating runs, in milliseconds, after a warm-up of all but a slow opponent."""
    times: tuple[list[float], list[float]] = ([], [])
    ours()
    if opponent_repeats > 1:
        opponent()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for i in range(repeats):
            times[0].append(timed(ours))
            if i < opponent_repeats:
                times[1].append(timed(opponent))
    finally:
        if enabled:
            gc.enable()
    return statistics.median(times[0]), statistics.median(times[1])


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call, with the work that it starts on a GPU, but without earlier work."""
    finish()
    start = time.perf_counter()
    call()
    finish()
    return (time.perf_counter() - start) * 1000


def finish() -> None:
    """Wait for the GPU, if this process uses one."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def place(device: str) -> torch.device:
    """The device of a bench; raises `KernelError` if torch finds no such GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise KernelError("--device cuda: torch finds no CUDA device here; --device cpu needs none")
    return torch.device(device)


def compare_memory(
    name: str,
    case: str,
    ours: float | None,
    opponent: float | None,
    opponent_name: str,
    goal: float,
) -> Result | None:
    """Compare two figures of `peak_memory`; None if the system does not report them."""
    if ours is None or opponent is None:
        return None
    ratio = opponent / ours
    return Result(name, case, ours, opponent, opponent_name, "MiB", ratio, goal, verified=True)


def peak_memory(call: Callable[[], Any]) -> float | None:
    """By how much `call` raises this process's peak of resident memory, in MiB; Linux only.

    The result is at least 1, because the kernel counts pages in batches.
    """
    if not (STATUS.exists() and CLEAR.exists()):
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed before must count when used again
    CLEAR.write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    call()
    return max(1.0, (_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"{STATUS} has no {key}")
