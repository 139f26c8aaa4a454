"""Figures of the study, each with its 95 % interval: `{"mean", "ci95"}`.

Bits per byte have their interval over documents. A document that is scored in every seed is one
cluster. Texts weigh the same and are strata, since they were chosen and not drawn; so were the
seeds, which count as given. What is not measured in documents, such as steps per second, has its
interval over seeds.
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
"""In every seed the nats of every document of every text."""

Sizes = Mapping[str, Sequence[int]]
"""The bytes of every document of every text, which are the same in every seed."""

Figure = dict[str, Any]


def bits_per_byte(
    scored: Seeds, sizes: Sizes, texts: Sequence[str], baseline: Seeds | None = None
) -> Figure:
    """The mean over texts and seeds; with a `baseline` that of the difference to it (paired)."""
    strata = []
    for text in texts:
        bits = _bits(scored, text) - (0 if baseline is None else _bits(baseline, text))
        strata.append((bits, len(scored) * np.asarray(sizes[text], np.float64)))
    mean = np.mean([each.sum() / size.sum() for each, size in strata])
    return _figure(float(mean), mean_ratio_interval(strata))


def part_of_way(
    scored: Seeds, start: Seeds, goal: Seeds, sizes: Sizes, texts: Sequence[str]
) -> Figure:
    """The part of the way from `start` to `goal` that is done, by the means over texts (Fieller).

    The mean is None if the goal is not below the start, and the interval if it is not clearly so.
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
    """The sum of the parts over that of the wholes, one of each for every seed (Fieller)."""
    return _figure(sum(parts) / sum(wholes), share_interval(parts, wholes))


def mean_of(values: Iterable[float | None]) -> float | None:
    """Of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _bits(scored: Seeds, text: str) -> Numbers:
    """What each document cost in all seeds together."""
    total: Numbers = np.sum([np.asarray(seed[text], np.float64) for seed in scored], axis=0)
    return total / math.log(2)


def _figure(mean: float | None, found: Interval | None) -> Figure:
    return {"mean": mean, "ci95": None if found is None else list(found)}
