"""Figures of the study, each with its 95 % interval: `{"mean", "ci95"}`.

Intervals of bits per byte are over documents. A document that is scored in every seed is one
cluster. Texts have equal weights and are strata, since they were chosen and not drawn. Seeds were
chosen too and count as given. Other figures, such as steps per second, have intervals over seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedmore.experts.scoring.intervals import (
    Interval,
    Numbers,
    mean_ratio_interval,
    ratio_interval,
    share_interval,
    stratified_share_interval,
)

Seeds = Sequence[Mapping[str, Sequence[float]]]
"""For every seed: the nats of every document of every text."""

Sizes = Mapping[str, Sequence[int]]
"""The bytes of every document of every text, equal in all seeds."""

Figure = dict[str, Any]


def bits_per_byte(
    scored: Seeds, sizes: Sizes, texts: Sequence[str], baseline: Seeds | None = None
) -> Figure:
    """The mean over texts and seeds; with a `baseline`, the mean of the paired difference."""
    strata = []
    for text in texts:
        bits = _bits(scored, text) - (0 if baseline is None else _bits(baseline, text))
        strata.append((bits, len(scored) * np.asarray(sizes[text], np.float64)))
    mean = np.mean([each.sum() / size.sum() for each, size in strata])
    return _figure(float(mean), mean_ratio_interval(strata))


def part_of_way(
    scored: Seeds, start: Seeds, goal: Seeds, sizes: Sizes, texts: Sequence[str]
) -> Figure:
    """The fraction of the way from `start` to `goal`, by the means over texts (Fieller).

    The mean is None if the goal is not below the start. The interval is None if it is not clearly
    so.
    """
    strata = []
    for text in texts:
        begun, size = _bits(start, text), sum(sizes[text])
        strata.append(((begun - _bits(scored, text)) / size, (begun - _bits(goal, text)) / size))
    done, way = (sum(float(each[i].sum()) for each in strata) for i in (0, 1))
    if way <= 0:
        return _figure(None, None)
    return _figure(done / way, stratified_share_interval(strata))


def over_seeds(values: Sequence[float]) -> Figure:
    """The mean over seeds."""
    return _figure(float(np.mean(values)), ratio_interval(values, np.ones(len(values))))


def quotient(parts: Sequence[float], wholes: Sequence[float]) -> Figure:
    """The sum of the parts divided by that of the wholes, one of each per seed (Fieller)."""
    return _figure(sum(parts) / sum(wholes), share_interval(parts, wholes))


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _bits(scored: Seeds, text: str) -> Numbers:
    """Bits of each document, summed over all seeds."""
    total: Numbers = np.sum([np.asarray(seed[text], np.float64) for seed in scored], axis=0)
    return total / math.log(2)


def _figure(mean: float | None, found: Interval | None) -> Figure:
    return {"mean": mean, "ci95": None if found is None else list(found)}
