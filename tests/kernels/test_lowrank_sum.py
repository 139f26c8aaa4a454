"""delta against a dense singular value decomposition in float64."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from fedmore.kernels.lowrank_sum import cpu, reference

ALL = 10_000


def terms_of(m, n, ranks, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(m, r, generator=g), torch.randn(r, n, generator=g), 0.3 + 0.2 * k)
        for k, r in enumerate(ranks)
    ]


def product(factors):
    b, a = factors
    return b.double() @ a.double()


def distance(left, right):
    return float((left - right).norm() / right.norm().clamp_min(1e-30))


@settings(deadline=None, max_examples=examples(30))
@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
def test_equals_the_dense_sum(m, n, ranks, seed):
    """Mixed ranks, rank 0 and a sum of ranks beyond both dimensions among them."""
    terms = terms_of(m, n, ranks, seed)
    b, a = cpu.aggregate(terms, ALL)
    assert b.dtype == a.dtype == torch.float64
    assert b.shape[1] == a.shape[0] <= min(sum(ranks), m, n)
    # Singular values below NOISE of the largest are left out.
    assert distance(product((b, a)), reference.dense(terms)) < 24 * cpu.NOISE
    assert cpu.norm(terms) == pytest.approx(float(reference.dense(terms).norm()), rel=1e-9)


@pytest.mark.parametrize(
    ("m", "n", "ranks"), [(64, 40, (4, 16, 1)), (3, 50, (2, 2, 2)), (50, 3, (9,))]
)
@pytest.mark.parametrize("kept", [1, 2, 3, 5])
def test_truncation_is_the_best_of_its_rank(m, n, ranks, kept):
    """Eckart-Young: the error is the singular values left out; the reference agrees."""
    terms = terms_of(m, n, ranks)
    b, a = cpu.aggregate(terms, kept)
    dense = reference.dense(terms)
    left_out = torch.linalg.svdvals(dense)[kept:].norm()
    error = (dense - product((b, a))).norm()
    assert b.shape[1] <= kept
    assert float(error) == pytest.approx(float(left_out), rel=1e-9, abs=1e-9 * float(dense.norm()))
    assert distance(product((b, a)), product(reference.aggregate(terms, kept))) < 1e-9
    assert cpu.relative_error(terms, b, a) == pytest.approx(
        reference.relative_error(terms, b, a), rel=1e-6, abs=1e-12
    )


@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.1, 0.7])
@pytest.mark.parametrize(("m", "n", "ranks"), [(40, 30, (3, 5)), (12, 50, (9, 9)), (7, 5, (0,))])
def test_a_fold_is_the_smallest_within_its_tolerance(m, n, ranks, tolerance):
    terms = terms_of(m, n, ranks)
    (b, a), error = cpu.fold(terms, tolerance)
    b_ref, a_ref = reference.fold(terms, max(tolerance, 1e-12))
    dense = reference.dense(terms)
    assert b.shape[1] == a.shape[0] == b_ref.shape[1]
    assert float((product((b, a)) - product((b_ref, a_ref))).norm()) <= 1e-9 * float(dense.norm())
    assert error <= tolerance
    lost = float((product((b, a)) - dense).norm())
    assert lost == pytest.approx(error * float(dense.norm()), rel=1e-6, abs=1e-9)


def test_terms_that_cancel_out_fold_to_nothing():
    (b, a, _), *_ = terms_of(20, 30, (4,))
    (folded, _), error = cpu.fold([(b, a, 2.0), (b, a, -2.0)], 0.0)
    assert (folded.shape[1], error) == (0, 0.0)


def test_the_split_is_balanced():
    b, a = cpu.aggregate(terms_of(20, 30, (3, 5)), ALL)
    torch.testing.assert_close(b.norm(dim=0), a.norm(dim=1))


def test_the_order_of_terms_does_not_matter():
    terms = terms_of(31, 17, (1, 4, 2, 8))
    expected = product(cpu.aggregate(terms, 6))
    for seed in range(5):
        shuffled = random.Random(seed).sample(terms, len(terms))
        assert distance(product(cpu.aggregate(shuffled, 6)), expected) < 1e-12


def test_averaging_the_factors_is_something_else():
    """The guard against federated averaging of A and B, each for itself."""
    terms = terms_of(20, 20, (4, 4))
    b = sum(w * b for b, _, w in terms)
    a = sum(w * a for _, a, w in terms)
    assert cpu.relative_error(terms, b, a) > 0.5
    assert cpu.relative_error(terms, *cpu.aggregate(terms, ALL)) < 1e-12


@pytest.mark.parametrize("ranks", [(0,), (0, 0)])
def test_terms_of_rank_0_are_nothing(ranks):
    terms = terms_of(5, 4, ranks)
    b, a = cpu.aggregate(terms, ALL)
    assert (b.shape, a.shape) == ((5, 0), (0, 4))
    assert cpu.norm(terms) == 0
    assert cpu.relative_error(terms, b, a) == 0


def test_a_term_of_rank_0_adds_nothing():
    terms = terms_of(9, 8, (3, 0, 2))
    assert cpu.aggregate(terms, ALL)[0].shape == (9, 5)
    only = product(cpu.aggregate([terms[0], terms[2]], ALL))
    assert distance(product(cpu.aggregate(terms, ALL)), only) < 1e-12


@pytest.mark.parametrize("weight", [1.0, 1e-6, 1e6])
def test_terms_that_cancel_out_leave_rank_0(weight):
    b, a, w = terms_of(9, 7, (3,))[0]
    terms = [(b, a, w * weight), (b, a, -w * weight)]
    result = cpu.aggregate(terms, ALL)
    assert result[0].shape == (9, 0)
    assert cpu.norm(terms) == 0
    assert cpu.relative_error(terms, *result) == 0


def test_weights_of_zero_leave_rank_0():
    terms = [(b, a, 0.0) for b, a, _ in terms_of(6, 5, (2, 3))]
    assert cpu.aggregate(terms, ALL)[0].shape == (6, 0)


def test_the_error_against_nothing_is_infinite_not_a_crash():
    b, a, _ = terms_of(6, 5, (2,))[0]
    assert cpu.relative_error([(b, a, 0.0)], b, a) == float("inf")


def test_a_small_change_of_a_large_sum_is_kept():
    """A change of 1e-5 of the aggregate, what a late round makes, is far above the noise."""
    big, small = terms_of(30, 20, (4, 3))
    terms = [(*big[:2], 1.0), (*small[:2], 1e-5)]
    assert cpu.aggregate(terms, ALL)[0].shape == (30, 7)


@pytest.mark.parametrize("rows", [1, 7, 30, 1000])
def test_blocks_of_rows_make_up_the_dense_sum(rows):
    terms = terms_of(30, 20, (4, 0, 3))
    blocks = list(cpu.dense_blocks(terms, rows))
    assert [block.shape[0] for block in blocks] == [
        min(rows, 30 - start) for start in range(0, 30, rows)
    ]
    assert distance(torch.cat(blocks), reference.dense(terms)) < 1e-14


def test_blocks_of_no_rows_are_refused():
    with pytest.raises(ValueError, match="rows is 0"):
        next(cpu.dense_blocks(terms_of(3, 3, (1,)), 0))


def test_truncating_factors_is_truncating_their_product():
    b, a, _ = terms_of(30, 20, (9,))[0]
    small = cpu.truncate(b, a, 4)
    assert small[0].shape == (30, 4)
    expected = reference.aggregate([(b, a, 1.0)], 4)
    assert distance(product(small), product(expected)) < 1e-9


LAYERS = [(30, 20, (4, 3)), (30, 20, (3, 4)), (300, 200, (40, 30)), (5, 6, (0,)), (8, 9, (30, 1))]


@pytest.mark.parametrize("max_rank", [ALL, 5])
def test_a_models_layers_are_those_one_by_one(max_rank):
    """Of every shape three, in mixed order; one is of lower rank than those it goes with."""
    layers = [terms_of(*shape, seed=seed) for seed in range(3) for shape in LAYERS]
    layers[0] = [(b[:, :1].expand_as(b), a, w) for b, a, w in layers[0]]
    for terms, (b, a) in zip(layers, cpu.aggregate_layers(layers, max_rank), strict=True):
        expected = cpu.aggregate(terms, max_rank)
        assert b.shape == expected[0].shape
        assert a.shape == expected[1].shape
        assert distance(product((b, a)), product(expected)) < 1e-12


def test_layers_that_are_alike_are_decomposed_together(monkeypatch):
    """Two groups of small ones; the large ones each by itself."""
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda core: calls.append(core.shape) or svd(core))
    cpu.aggregate_layers([terms_of(*shape, seed=s) for s in range(2) for shape in LAYERS[:3]], ALL)
    assert sorted(calls) == [(2, 7, 7), (2, 7, 7), (70, 70), (70, 70)]


def test_no_layers():
    assert cpu.aggregate_layers([], ALL) == []


def test_the_terms_are_not_changed():
    terms = [(b.double(), a.double(), w) for b, a, w in terms_of(9, 8, (3, 2))]
    before = [(b.clone(), a.clone()) for b, a, _ in terms]
    cpu.aggregate(terms, ALL)
    for (b, a, _), (x, y) in zip(terms, before, strict=True):
        assert torch.equal(b, x)
        assert torch.equal(a, y)
