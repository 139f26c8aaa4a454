"""The domain embedding is clipped and noised, by how much, and the same however often asked."""

import pytest
import torch

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.client.training.embedding import noised_mean

WIDTH, PASSAGES = 4096, 50
TABLE = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(0))
ROW = float(TABLE.double().norm(dim=1).square().mean().sqrt())


def means(size: float) -> torch.Tensor:
    """Means of passages, each of norm `size`, in float64 [P, D]."""
    found = torch.randn(PASSAGES, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    return size * found / found.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
def test_the_noise_is_as_large_as_the_policy_says(noise):
    """Standard deviation ``noise * clip / passages`` in each of 4,096 dimensions."""
    rules, small = OwnerPolicy(embedding_noise=noise), means(0.1 * ROW)
    given, clipped = noised_mean(small, TABLE, rules, seed=3)
    found = float((given.double() - small.mean(0)).std())
    assert clipped == 0
    assert found == pytest.approx(noise * 0.5 * ROW / PASSAGES, rel=0.05)


def test_without_noise_it_is_the_mean():
    small = means(0.1 * ROW)
    given, _ = noised_mean(small, TABLE, OwnerPolicy(embedding_noise=0.0), seed=3)
    torch.testing.assert_close(given, small.mean(0).float())


def test_the_noise_is_the_owners_and_the_same_for_ever():
    first, again, other = (noised_mean(means(1.0), TABLE, OwnerPolicy(), s)[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_passage_moves_the_mean_by_more_than_the_clip():
    """One that is a thousand times larger than the others counts like one of the clip's norm."""
    rules, rows = OwnerPolicy(embedding_noise=0.0), means(0.1 * ROW)
    loud = rows.clone()
    loud[0] *= 1000
    (a, none), (b, one) = noised_mean(rows, TABLE, rules, 3), noised_mean(loud, TABLE, rules, 3)
    assert (none, one) == (0, 1)
    assert float((a - b).norm()) <= (0.5 + 0.1) * ROW / PASSAGES * 1.001


def test_by_default_an_embedding_is_noised():
    assert OwnerPolicy().embedding_noise >= 1
    assert OwnerPolicy().embedding_clip <= 0.5
