"""How kernels are measured: equal first, then timed in turn with an opponent, in one process.

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
    """One measurement; `ours` and `opponent` are medians in `unit`, where less is better.

    `ratio` says how many times better ours is, `goal` how many times it should be; both are null
    without an opponent. With `verified` false nothing was timed.
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
    """Time `ours` and `opponent` in turn, in milliseconds, if `verify` says that they are equal.

    An opponent that takes minutes may have fewer repeats; its name then says so.
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
    """The medians of alternating runs, milliseconds; ours is warmed up, so is a quick opponent."""
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
    """Milliseconds of one call, what it began on a GPU included, and nothing from before."""
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
    """The device of a bench; raises `KernelError` for a GPU that is not there."""
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
    """A result of two `peak_memory` figures; None if the system does not tell them."""
    if ours is None or opponent is None:
        return None
    ratio = opponent / ours
    return Result(name, case, ours, opponent, opponent_name, "MiB", ratio, goal, verified=True)


def peak_memory(call: Callable[[], Any]) -> float | None:
    """How far `call` raises this process's resident memory at its highest, MiB; Linux only.

    At least 1: pages come in groups, and less cannot be told from nothing.
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
