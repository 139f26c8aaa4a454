"""Sums with full-size terms among low-rank ones, against the dense sum in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from fedmore.kernels.lowrank_sum import cpu, reference

FULL = -1


def terms_of(m, n, ranks, seed=0):
    """A term for each rank; `FULL` makes a full-size matrix."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for k, rank in enumerate(ranks):
        weight = 0.3 + 0.2 * k
        if rank == FULL:
            found.append((torch.randn(m, n, generator=g), weight))
        else:
            pair = torch.randn(m, rank, generator=g), torch.randn(rank, n, generator=g)
            found.append((*pair, weight))
    return found


def distance(left, right):
    return float((left - right).norm() / right.norm().clamp_min(1e-30))


@settings(deadline=None, max_examples=examples(30))
@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.lists(st.integers(FULL, 9), max_size=5),
    st.integers(0, 5),
    st.integers(0, 10**6),
)
def test_equals_the_dense_sum(m, n, ranks, at, seed):
    """Nothing is cut off, however low the largest rank is."""
    terms = terms_of(m, n, [*ranks[:at], FULL, *ranks[at:]], seed)
    exact = reference.dense(terms)
    (found,) = cpu.aggregate(terms, 1)
    assert found.dtype == torch.float64
    assert distance(found, exact) < 1e-14
    (folded,), error = cpu.fold(terms, 0.5)
    assert error == 0
    assert distance(folded, exact) < 1e-14
    assert cpu.norm(terms) == pytest.approx(float(exact.norm()), rel=1e-12)
    assert cpu.relative_error(terms, found) < 1e-14
    assert cpu.relative_error(terms, 2 * found) == pytest.approx(1)
    assert distance(torch.cat(list(cpu.dense_blocks(terms, 5))), exact) < 1e-14
    assert distance(cpu.matrix(terms), exact) < 1e-14


@pytest.mark.parametrize("ranks", [(FULL,), (FULL, 3), (2, FULL, FULL)])
def test_terms_that_cancel_out_leave_nothing_but_rounding(ranks):
    terms = terms_of(40, 30, ranks)
    (found,) = cpu.aggregate(terms, 8)
    left = [*terms, (found, -1.0)]
    assert cpu.norm(left) < 1e-13 * cpu.norm(terms)


def test_a_sum_of_products_stays_a_product():
    terms = terms_of(40, 30, (2, 3))
    assert len(cpu.aggregate(terms, 8)) == len(cpu.fold(terms, 1e-9)[0]) == 2
    assert len(cpu.aggregate([*terms, (torch.zeros(40, 30), 0.0)], 8)) == 1


def test_the_terms_stay_as_they_are():
    terms = terms_of(9, 7, (FULL, 2))
    before = [[part.clone() for part in term[:-1]] for term in terms]
    cpu.aggregate(terms, 4), cpu.fold(terms, 0.1), cpu.norm(terms)
    assert all(
        torch.equal(a, b)
        for t, old in zip(terms, before, strict=True)
        for a, b in zip(t[:-1], old, strict=True)
    )
