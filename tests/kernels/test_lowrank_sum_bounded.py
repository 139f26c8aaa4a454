"""Sums of many products: every way of forming them, against the dense sum in float64."""

import pytest
import torch
from random_tensors import tensors_of

from fedmore.kernels.lowrank_sum import bounded, cpu, reference

WAYS = {
    "at once": (48, 40, 1000),
    "dense": (48, 24, 32),
    "in blocks": (48, 40, 32),
}
"""Rows, columns, and the number of stacked columns up to which they are decomposed at once."""


def terms_of(m, n, count=12, rank=4, seed=0):
    shapes = [shape for _ in range(count) for shape in ((m, rank), (rank, n))]
    flat = iter(tensors_of(shapes, seed))
    return [(b, a, 1.0 + k / count) for k, (b, a) in enumerate(zip(flat, flat, strict=True))]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("count", "rank"), [(12, 4), (3, 30), (60, 1)])
def test_nothing_is_lost_where_nothing_is_cut(way, count, rank):
    m, n, wide = WAYS[way]
    terms = terms_of(m, n, count, rank)
    found, exact = bounded.stored(terms, 512, wide=wide), reference.dense(terms)
    b, a = found.factors
    assert (b.dtype, a.dtype) == (torch.float32, torch.float32)
    assert float((exact - b.double() @ a.double()).norm()) < 1e-6 * float(exact.norm())
    assert 0 <= found.error < 1e-6 * found.size
    assert found.size == pytest.approx(float(exact.norm()), rel=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_is_the_best_one_and_its_cost_is_told(way):
    m, n, wide = WAYS[way]
    terms = terms_of(m, n)
    found, exact = bounded.stored(terms, 6, wide=wide), reference.dense(terms)
    best = float(torch.linalg.svdvals(exact)[6:].norm())
    b, a = found.factors
    true = float((exact - b.double() @ a.double()).norm())
    assert a.shape[0] == 6
    # Folds in blocks have lost a little before the last cut; nothing can be better than the best.
    assert best <= true * (1 + 1e-6)
    assert true <= best * (1.1 if way == "in blocks" else 1 + 1e-6)
    assert found.error == pytest.approx(true, rel=0.15 if way == "in blocks" else 1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999])
def test_an_energy_share_keeps_the_fewest_directions_that_hold_it(way, energy):
    m, n, wide = WAYS[way]
    terms = terms_of(m, n, count=10)
    squares = torch.linalg.svdvals(reference.dense(terms)).square()
    shares = squares.cumsum(0) / squares.sum()
    fewest = int((shares < energy).sum()) + 1
    kept = bounded.stored(terms, 512, energy, wide).factors[1].shape[0]
    assert kept == fewest


@pytest.mark.parametrize("way", WAYS)
def test_terms_that_cancel_out_sum_to_nothing(way):
    m, n, wide = WAYS[way]
    terms = terms_of(m, n)
    found = bounded.stored([*terms, *((b, a, -w) for b, a, w in terms)], 512, wide=wide)
    assert found.factors[1].shape[0] == 0
    assert (found.error, found.size) == (0.0, 0.0)


def test_few_columns_have_the_bits_that_they_always_had():
    terms = terms_of(48, 40)
    b, a = bounded.stored(terms, 9).factors
    b_1, a_1 = cpu.aggregate(terms, 9)
    assert torch.equal(b, b_1.float())
    assert torch.equal(a, a_1.float())


@pytest.mark.parametrize("way", ["dense", "in blocks"])
def test_no_more_is_decomposed_at_once_however_many_terms_there_are(way, monkeypatch):
    m, n, wide = WAYS[way]
    widths = []
    stack = cpu.stack
    monkeypatch.setattr(cpu, "stack", lambda terms: widths.append(sum_of(terms)) or stack(terms))
    bounded.stored(terms_of(m, n, count=100), 8, wide=wide)
    assert max(widths, default=0) <= 8 + wide


def sum_of(terms):
    return sum(a.shape[0] for _, a, _ in terms)
