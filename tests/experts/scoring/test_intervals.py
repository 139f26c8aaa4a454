"""Intervals hold the truth about as often as they say, also of few documents that are skewed."""

import numpy as np
import pytest
from scipy import stats

from fedmore.experts.scoring.intervals import (
    mean_ratio_interval,
    ratio_interval,
    share_interval,
    stratified_share_interval,
)

ROUNDS = 1500
FEWEST = {3: 0.90, 12: 0.90, 48: 0.92}
"""Of intervals that hold the truth; 0.95 is reached as documents grow many or less skewed."""


def skewed(rng, shape):
    """Nats and sizes: lengths and losses of documents that a few of them stick out of."""
    sizes = np.minimum(rng.lognormal(5.5, 0.6, shape).round() + 1, 480)
    return sizes * rng.lognormal(0, 0.45, shape), sizes


def gains(rng, shape):
    """What a mixture and an own expert gain, document by document, and not independently."""
    sizes = np.minimum(rng.lognormal(5.5, 0.6, shape).round() + 1, 480)
    own = sizes * rng.normal(0.15, 0.05, shape)
    return 0.8 * own + sizes * rng.normal(0, 0.02, shape), own


def bootstrap(tops, bottoms):
    """The percentile bootstrap, which is what this test is to tell from the right thing."""
    drawn = np.random.default_rng(0).integers(0, len(tops), (400, len(tops)))
    return np.quantile(tops[drawn].sum(1) / bottoms[drawn].sum(1), [0.025, 0.975])


def coverage(method, count, draw=skewed, rounds=ROUNDS):
    """How often the truth is not refuted; where there is no interval nothing is."""
    rng = np.random.default_rng(7)
    tops, bottoms = draw(rng, 400_000)
    truth = tops.sum() / bottoms.sum()
    found = [method(*draw(rng, count)) for _ in range(rounds)]
    return np.mean([each is None or each[0] < truth < each[1] for each in found])


@pytest.mark.parametrize("count", FEWEST)
def test_it_covers_about_as_often_as_it_says(count):
    assert FEWEST[count] <= coverage(ratio_interval, count) <= 0.975


@pytest.mark.parametrize("count", [3, 12])
def test_a_bootstrap_would_not(count):
    assert coverage(bootstrap, count, rounds=500) < FEWEST[count] - 0.015


@pytest.mark.parametrize("count", FEWEST)
def test_a_share_of_gains_is_covered(count):
    """At least: of three documents the gain is often unclear, and then no share is refuted."""
    assert FEWEST[count] <= coverage(share_interval, count, gains)


def repeated(rng, seeds, count=12):
    """Documents in several seeds: what a document costs is nearly the same in each."""
    tops, bottoms = skewed(rng, count)
    tops = tops * rng.normal(1, 0.01, (seeds, count))
    return tops.ravel(), np.tile(bottoms, seeds), list(range(count)) * seeds


@pytest.mark.parametrize("seeds", [3, 10])
def test_documents_that_repeat_are_one_draw_each(seeds):
    rng = np.random.default_rng(7)
    tops, bottoms = skewed(rng, 400_000)
    truth = tops.sum() / bottoms.sum()
    hits = {"clustered": 0, "as if new": 0}
    for _ in range(600):
        tops, bottoms, documents = repeated(rng, seeds)
        for name, clusters in (("clustered", documents), ("as if new", None)):
            low, high = ratio_interval(tops, bottoms, clusters)
            hits[name] += low < truth < high
    assert hits["clustered"] / 600 >= 0.89
    assert hits["as if new"] / 600 < 0.8


def test_equal_documents_give_the_interval_of_a_mean():
    from scipy import stats

    values = np.array([1.0, 2.0, 4.0, 4.5])
    half = stats.sem(values) * stats.t.ppf(0.975, 3)
    expected = (values.mean() - half, values.mean() + half)
    assert ratio_interval(values * 7, [7] * 4) == pytest.approx(expected)
    assert share_interval(values * 7, [7] * 4) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_ends_of_a_share_are_where_a_t_test_begins_to_refute_it(seed):
    parts, wholes = gains(np.random.default_rng(seed), 20)
    for share in share_interval(parts, wholes):
        assert stats.ttest_1samp(parts - share * wholes, 0).pvalue == pytest.approx(0.05)


def test_a_document_of_no_size_is_no_document():
    assert ratio_interval([1, 2, 0], [3, 4, 0]) == ratio_interval([1, 2], [3, 4])
    assert ratio_interval([1, 0], [3, 0]) is None


def test_there_is_none_of_one_document():
    assert ratio_interval([1.0], [2.0]) is None
    assert share_interval([1.0], [2.0]) is None
    assert ratio_interval([1.0, 2.0], [2.0, 3.0], ["one", "one"]) is None


def test_a_share_of_no_clear_gain_has_no_interval():
    assert share_interval([1.0, 1.0, 1.0], [1.0, -1.0, 0.3]) is None


LEVELS = (0.5, 1.0, 3.0)
"""Texts that differ far more from each other than documents of one do."""


def texts(rng, draw, count):
    """Documents of three texts."""
    return [tuple(level * part for part in draw(rng, count)) for level in LEVELS]


def of_means(strata):
    return np.mean([tops.sum() / bottoms.sum() for tops, bottoms in strata])


def levelled(rng, shape):
    """As `skewed`, at a level of its own: the ratio is of this text."""
    tops, bottoms = skewed(rng, shape)
    level = LEVELS[levelled.turn % len(LEVELS)]
    levelled.turn += 1
    return level * tops, bottoms


@pytest.mark.parametrize("count", [3, 12])
def test_a_mean_over_texts_is_covered_and_their_differences_are_no_error(count):
    levelled.turn, rng = 0, np.random.default_rng(7)
    truth = of_means([levelled(rng, 400_000) for _ in LEVELS])
    hits, widths, pooled = 0, [], []
    for _ in range(800):
        strata = [levelled(rng, count) for _ in LEVELS]
        low, high = mean_ratio_interval(strata)
        hits += low < truth < high
        widths.append(high - low)
        one = ratio_interval(*(np.concatenate(part) for part in zip(*strata, strict=True)))
        pooled.append(one[1] - one[0])
    assert hits / 800 >= FEWEST[count]
    if count == 12:
        assert np.median(widths) < 0.7 * np.median(pooled)


@pytest.mark.parametrize("count", [3, 12])
def test_a_share_over_texts_is_covered(count):
    rng = np.random.default_rng(7)
    parts, wholes = (sum(text[i].sum() for text in texts(rng, gains, 400_000)) for i in (0, 1))
    found = [stratified_share_interval(texts(rng, gains, count)) for _ in range(800)]
    hit = [each is None or each[0] < parts / wholes < each[1] for each in found]
    assert FEWEST[count] <= np.mean(hit) <= 1.0


def test_of_one_text_both_are_what_they_are_without_texts():
    one = gains(np.random.default_rng(1), 20)
    assert mean_ratio_interval([one]) == ratio_interval(*one)
    assert stratified_share_interval([one]) == share_interval(*one)


def test_a_text_of_one_document_leaves_no_interval():
    both = [([1.0, 2.0], [3.0, 4.0]), ([1.0], [2.0])]
    assert mean_ratio_interval(both) is None
    assert stratified_share_interval(both) is None
