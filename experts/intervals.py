"""95 % intervals of figures over documents, by Student's t.

A document is a draw from many that could have been scored; a cluster is what was drawn together,
such as the scores of one document in several seeds. Documents differ in length, so a mean is a
ratio of sums, and its error is that of leaving out one document after another (the jackknife).

Shape suffixes: N documents, C clusters.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95

Interval = tuple[float, float]
Numbers = NDArray[np.float64]


def ratio_interval(
    tops_N: ArrayLike, bottoms_N: ArrayLike, clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """The interval of sum(tops) / sum(bottoms), bottoms being sizes; None below two documents.

    Documents of size 0 say nothing and do not count.
    """
    tops, bottoms = _clustered(tops_N, bottoms_N, clusters)
    tops, bottoms = tops[bottoms > 0], bottoms[bottoms > 0]
    count = len(tops)
    if count < 2:
        return None
    mean = tops.sum() / bottoms.sum()
    residuals = (tops - mean * bottoms) / (bottoms.sum() - bottoms)
    error = math.sqrt((count - 1) / count * float((residuals**2).sum()))
    half = _quantile(count) * error
    return float(mean - half), float(mean + half)


def share_interval(
    parts_N: ArrayLike, wholes_N: ArrayLike, clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """The interval of sum(parts) / sum(wholes) for wholes that may be of either sign (Fieller).

    It holds every share that a t-test does not refute. None unless the sum of the wholes is clearly
    not 0: then no share at all can be refuted, or hardly any.
    """
    parts, wholes = _clustered(parts_N, wholes_N, clusters)
    count = len(parts)
    if count < 2:
        return None
    noise = _quantile(count) ** 2 * count * np.cov(parts, wholes)
    square = wholes.sum() ** 2 - noise[1, 1]
    middle = parts.sum() * wholes.sum() - noise[0, 1]
    rest = parts.sum() ** 2 - noise[0, 0]
    if square <= 0:
        return None
    half = math.sqrt(max(middle**2 - square * rest, 0.0))
    return float((middle - half) / square), float((middle + half) / square)


def _quantile(count: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))


def _clustered(
    one_N: ArrayLike, other_N: ArrayLike, clusters: Sequence[Hashable] | None
) -> tuple[Numbers, Numbers]:
    """The sums of every cluster; each document is one by itself if there are no clusters."""
    first, second = np.asarray(one_N, np.float64), np.asarray(other_N, np.float64)
    if clusters is None:
        return first, second
    number = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    places = np.array([number[name] for name in clusters])
    one_C, other_C = np.zeros(len(number)), np.zeros(len(number))
    np.add.at(one_C, places, first)
    np.add.at(other_C, places, second)
    return one_C, other_C
