"""95 % intervals of figures over documents, by Student's t.

A document is a draw from the many that could have been scored. A cluster has scores that were drawn
together, such as those of one document in several seeds. Documents differ in length, so a mean is a
ratio of sums. Its error is estimated by leaving out one document after another (the jackknife).
Over several strata, Student's quantile is that of the smallest stratum, which errs towards wide
intervals.

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
Pair = tuple[ArrayLike, ArrayLike]
"""Tops and bottoms, or parts and wholes, of one stratum's documents."""


def ratio_interval(
    tops_N: ArrayLike, bottoms_N: ArrayLike, clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """Interval of sum(tops) / sum(bottoms), with sizes as bottoms; None below two documents.

    Documents of size 0 are ignored.
    """
    return mean_ratio_interval([_clustered(tops_N, bottoms_N, clusters)])


def mean_ratio_interval(strata: Sequence[Pair]) -> Interval | None:
    """Interval of the mean over strata, such as texts, of sum(tops) / sum(bottoms).

    Strata are chosen, not drawn. So their means may differ, and only documents within one vary.
    """
    known = [_counted(*_clustered(tops, bottoms, None)) for tops, bottoms in strata]
    fewest = min(len(tops) for tops, _ in known)
    if fewest < 2:
        return None
    mean = sum(tops.sum() / bottoms.sum() for tops, bottoms in known) / len(known)
    variance = sum(_jackknife(tops, bottoms) for tops, bottoms in known) / len(known) ** 2
    half = _quantile(fewest) * math.sqrt(variance)
    return float(mean - half), float(mean + half)


def share_interval(
    parts_N: ArrayLike, wholes_N: ArrayLike, clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """Interval of sum(parts) / sum(wholes) if wholes may have either sign (Fieller's method).

    It holds every share that a t-test does not refute. The result is None unless the sum of the
    wholes is significantly different from 0, since otherwise hardly any share can be refuted.
    """
    return stratified_share_interval([_clustered(parts_N, wholes_N, clusters)])


def stratified_share_interval(strata: Sequence[Pair]) -> Interval | None:
    """`share_interval` of the sums over all strata; only documents within a stratum vary."""
    known = [_clustered(parts, wholes, None) for parts, wholes in strata]
    fewest = min(len(parts) for parts, _ in known)
    if fewest < 2:
        return None
    covariances = np.sum([len(each[0]) * np.cov(*each) for each in known], axis=0)
    noise = _quantile(fewest) ** 2 * covariances
    part, whole = (float(sum(each[i].sum() for each in known)) for i in (0, 1))
    square = whole**2 - noise[1, 1]
    middle = part * whole - noise[0, 1]
    rest = part**2 - noise[0, 0]
    if square <= 0:
        return None
    half = math.sqrt(max(middle**2 - square * rest, 0.0))
    return float((middle - half) / square), float((middle + half) / square)


def _counted(tops_N: Numbers, bottoms_N: Numbers) -> tuple[Numbers, Numbers]:
    return tops_N[bottoms_N > 0], bottoms_N[bottoms_N > 0]


def _jackknife(tops_N: Numbers, bottoms_N: Numbers) -> float:
    """Variance of sum(tops) / sum(bottoms), by the jackknife."""
    count, mean = len(tops_N), tops_N.sum() / bottoms_N.sum()
    residuals = (tops_N - mean * bottoms_N) / (bottoms_N.sum() - bottoms_N)
    return float((count - 1) / count * (residuals**2).sum())


def _quantile(count: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))


def _clustered(
    one_N: ArrayLike, other_N: ArrayLike, clusters: Sequence[Hashable] | None
) -> tuple[Numbers, Numbers]:
    """Sum up every cluster; without clusters, each document is its own."""
    first, second = np.asarray(one_N, np.float64), np.asarray(other_N, np.float64)
    if clusters is None:
        return first, second
    number = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    places = np.array([number[name] for name in clusters])
    one_C, other_C = np.zeros(len(number)), np.zeros(len(number))
    np.add.at(one_C, places, first)
    np.add.at(other_C, places, second)
    return one_C, other_C
