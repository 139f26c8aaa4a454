"""Ordered draws without replacement, and what is computed of them."""

import itertools
import math

import pytest
import torch

from fedmore.experts.routers.sampling import (
    effective_size,
    entropy,
    leave_one_out,
    log_probability,
    sample_ordered,
)

DRAWS = 40_000


def distance(found_NK, log_q_A):
    """Pearson's statistic of draws against Q, and the most that chance would give it."""
    n, k = len(log_q_A), found_NK.shape[1]
    orders = torch.tensor(list(itertools.permutations(range(n), k)))
    expected_S = log_probability(log_q_A.expand(len(orders), -1), orders).exp() * len(found_NK)
    places = n ** torch.arange(k)
    counts = torch.bincount((found_NK * places).sum(1), minlength=n**k)[(orders * places).sum(1)]
    assert counts.sum() == len(found_NK)  # nothing but distinct arms
    freedom = len(orders) - 1
    limit = freedom + 5 * math.sqrt(2 * freedom)
    return float(((counts - expected_S).square() / expected_S).sum()), limit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "k"), [(3, 1), (3, 2), (3, 3), (4, 2), (4, 3), (5, 2)])
def test_draws_come_with_the_probabilities_of_q(n, k, dtype):
    g = torch.Generator().manual_seed(7)
    log_q_A = torch.randn(n, generator=g, dtype=torch.float64).log_softmax(-1)
    found_NK = sample_ordered(log_q_A.to(dtype).expand(DRAWS, n), k, g)
    statistic, limit = distance(found_NK, log_q_A)
    assert statistic < limit
    if k > 1:  # the order counts: the same arms by number, or backwards, are no such draw
        assert distance(found_NK.sort(-1).values, log_q_A)[0] > 20 * limit
        assert distance(found_NK.flip(-1), log_q_A)[0] > 20 * limit


def test_every_row_is_drawn_by_its_own_probabilities():
    log_q_TA = torch.full((4, 4), -40.0) + 40 * torch.eye(4)
    found_BTK = sample_ordered(log_q_TA.expand(50, 4, 4), 2)
    assert (found_BTK[..., 0] == torch.arange(4)).all()
    assert len(found_BTK[:, 0, 1].unique()) == 3  # the second of three that are alike


def test_the_same_seed_draws_the_same():
    log_q_BA = torch.randn(20, 5).log_softmax(-1)
    draws = [sample_ordered(log_q_BA, 3, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_q_near_one_loses_no_digits():
    """In float32, where 1 - q is 0: what is left is summed from the arms that are left."""
    log_q_A = torch.tensor([0.0, -40.0, -41.0]).log_softmax(-1)
    found = log_probability(log_q_A.expand(2, 3), torch.tensor([[0, 1], [0, 2]])).exp()
    expected = torch.tensor([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_every_selection_is_compared_with_the_mean_of_the_others():
    losses_BM = torch.randn(6, 5, dtype=torch.float64)
    for row, found in zip(losses_BM, leave_one_out(losses_BM), strict=True):
        for m in range(5):
            others = torch.cat([row[:m], row[m + 1 :]]).mean()
            assert found[m] == pytest.approx(float(row[m] - others) / 5, abs=1e-12)
    torch.testing.assert_close(leave_one_out(losses_BM + 40), leave_one_out(losses_BM))


def test_one_selection_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="2 selections or more"):
        leave_one_out(torch.ones(3, 1))


def test_entropy():
    q = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    assert float(entropy(q.log())) == pytest.approx(1.75 * math.log(2), abs=1e-12)
    even = torch.zeros(2, 3, 5).log_softmax(-1)
    torch.testing.assert_close(entropy(even), torch.full((2, 3), math.log(5)))


def test_effective_size():
    arms = torch.tensor(
        [[0.25, 0.25, 0.25, 0.25], [0, 0.7, 0, 0.7], [0, 0, 3, 0], [0.6, 0.2, 0.1, 0.1]]
    )
    expected = torch.tensor([4, 2, 1, 1 / 0.42], dtype=torch.float64)
    torch.testing.assert_close(effective_size(arms), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(effective_size(9 * arms), expected, rtol=1e-6, atol=0)
