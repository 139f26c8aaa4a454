"""Compares an op with the peak of its device: the speed of its memory or of its matrix units.

Both peaks are measured in the same run, by a large copy and a large product of torch.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fedmore.kernels.benchmarking.comparison import Result, timed

GOAL = 0.7


@dataclass(frozen=True)
class Peak:
    """A device's peak in bytes or operations per millisecond; `name` says how it was measured."""

    name: str
    per_ms: float


def memory(device: torch.device, count: int = 1 << 28) -> Peak:
    """Measure memory: bytes read and written per millisecond by a copy of `count` float32."""
    source = torch.ones(count, device=device)
    target = torch.zeros_like(source)
    ms = median(lambda: target.copy_(source), 15)
    return Peak("the same bytes at the speed of a large copy", 8 * count / ms)


def matrices(device: torch.device, dtype: torch.dtype, size: int = 8192) -> Peak:
    """Measure operations per millisecond of a square product; a multiply-add counts as two."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    ms = median(lambda: a @ b, 15)
    return Peak("the same operations at the speed of a large product", 2 * size**3 / ms)


def part_of(
    peak: Peak,
    name: str,
    case: str,
    ours: Callable[[], Any],
    work: float,
    *,
    verify: Callable[[], bool],
    repeats: int = 15,
) -> Result:
    """Compare the time of `ours` with the time that its `work` would take at the peak.

    So the ratio is the fraction of the peak that is reached. `work` is the least that the op must
    do: bytes moved or operations, as in `peak`.
    """
    if not verify():
        return Result(name, case, None, None, peak.name, "ms", None, GOAL, verified=False)
    ours_ms, least_ms = median(ours, repeats), work / peak.per_ms
    ratio = least_ms / ours_ms
    return Result(name, case, ours_ms, least_ms, peak.name, "ms", ratio, GOAL, verified=True)


def median(call: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of a call, after one warm-up call."""
    call()
    return statistics.median(timed(call) for _ in range(repeats))
