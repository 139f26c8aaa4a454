"""ReMix's estimate of the gradient is unbiased: every selection is enumerated, in float64.

Shape suffixes: A arms, S ordered selections, K chosen, M selections of one text, N tuples of them.
"""

import itertools
from dataclasses import dataclass

import pytest
import torch

from fedmore.experts.routers.sampling import log_probability, surrogate

SIZES = [  # arms n, chosen k, selections M
    (3, 1, 2), (3, 2, 2), (3, 3, 2), (3, 1, 3), (3, 2, 3), (4, 1, 3), (4, 2, 3), (4, 3, 2),
    (5, 1, 3), (5, 2, 2), (5, 2, 3), (5, 3, 2),
]  # fmt: skip
EXACT, WIDE = 1e-10, 1e-2


@dataclass
class Problem:
    """A softmax over n arms, all ordered selections of k with a loss each, all M-tuples."""

    n: int
    k: int
    samples: int
    by_set: bool = False
    """Whether the order makes no difference to the loss, as in a mixture."""

    def __post_init__(self):
        g = torch.Generator().manual_seed(100 * self.n + 10 * self.k + self.samples)
        self.logits_A = torch.randn(self.n, generator=g, dtype=torch.float64)
        orders = list(itertools.permutations(range(self.n), self.k))
        self.orders_SK = torch.tensor(orders)
        self.losses_S = 4 + 2 * torch.rand(len(orders), generator=g, dtype=torch.float64)
        if self.by_set:
            sets = [orders.index(tuple(sorted(order))) for order in orders]
            self.losses_S = self.losses_S[sets]
        self.tuples_NM = torch.cartesian_prod(*[torch.arange(len(orders))] * self.samples)

    def probabilities(self, logits_A):
        """Q of all selections [S], as it is defined."""
        q = logits_A.softmax(-1)
        found = []
        for order in self.orders_SK.tolist():
            parts = [q[arm] / (1 - sum(q[i] for i in order[:j])) for j, arm in enumerate(order)]
            found.append(torch.stack(parts).prod())
        return torch.stack(found)

    def exact(self):
        """The gradient of the expected loss [A]."""
        logits_A = self.logits_A.clone().requires_grad_()
        expected = (self.probabilities(logits_A) * self.losses_S).sum()
        return torch.autograd.grad(expected, logits_A)[0]

    def odds(self, probabilities_S):
        """Probability of every tuple [N]."""
        return probabilities_S[self.tuples_NM].prod(-1)

    def estimates(self, estimator):
        """The gradient that an estimator gives for every tuple [N, A]."""
        logits_NA = self.logits_A.repeat(len(self.tuples_NM), 1).requires_grad_()
        log_q_NMA = logits_NA.log_softmax(-1)[:, None].expand(-1, self.samples, -1)
        chosen_NMK = self.orders_SK[self.tuples_NM]
        found_N = estimator(self.losses_S[self.tuples_NM], log_q_NMA, chosen_NMK)
        return torch.autograd.grad(found_N.sum(), logits_NA)[0]


def check_unbiased(problem, estimator, tolerance=EXACT, drawn=lambda problem, q_S: q_S):
    """The mean estimate over all tuples is the exact gradient, to a part of its largest entry.

    Where all arms are chosen and their order is of no account that gradient is 0.
    """
    probabilities_S = drawn(problem, problem.probabilities(problem.logits_A))
    assert abs(probabilities_S.sum() - 1) < 1e-12
    mean_A = problem.odds(probabilities_S) @ problem.estimates(estimator)
    exact_A = problem.exact()
    assert (mean_A - exact_A).abs().max() <= tolerance * exact_A.abs().max().clamp_min(1e-3)


def real(losses_NM, log_q_NMA, chosen_NMK):
    return surrogate(losses_NM, log_probability(log_q_NMA, chosen_NMK))


def over_m(losses_NM, log_q_NMA, chosen_NMK):
    """1 / M for 1 / (M - 1): a baseline with the selection's own loss in it, uncorrected."""
    return ((losses_NM - losses_NM.mean(-1, keepdim=True)) * log_q(log_q_NMA, chosen_NMK)).mean(-1)


def twice_corrected(losses_NM, log_q_NMA, chosen_NMK):
    """Against the mean of the others, and over M - 1 as well."""
    samples = losses_NM.shape[-1]
    return over_m(losses_NM, log_q_NMA, chosen_NMK) * (samples / (samples - 1)) ** 2


def best_as_baseline(losses_NM, log_q_NMA, chosen_NMK):
    against = losses_NM - losses_NM.amin(-1, keepdim=True)
    return (against * log_q(log_q_NMA, chosen_NMK)).mean(-1)


def not_renormalised(losses_NM, log_q_NMA, chosen_NMK):
    """Arms as if they were drawn with replacement."""
    return surrogate(losses_NM, log_q_NMA.gather(-1, chosen_NMK).sum(-1))


def first_arm_alone(losses_NM, log_q_NMA, chosen_NMK):
    return surrogate(losses_NM, log_q_NMA.gather(-1, chosen_NMK)[..., 0])


def in_any_order(losses_NM, log_q_NMA, chosen_NMK):
    """Q of the set: the sum over its orders."""
    orders = itertools.permutations(range(chosen_NMK.shape[-1]))
    each = [log_q(log_q_NMA, chosen_NMK[..., list(order)]) for order in orders]
    return surrogate(losses_NM, torch.stack(each).logsumexp(0))


def turned(losses_NM, log_q_NMA, chosen_NMK):
    return surrogate(losses_NM, log_q(log_q_NMA, chosen_NMK.flip(-1)))


def log_q(log_q_NMA, chosen_NMK):
    return log_probability(log_q_NMA, chosen_NMK)


def sorted_draw(problem, probabilities_S):
    """What is drawn if the order is thrown away and the arms are listed by number."""
    orders = problem.orders_SK.tolist()
    listed = torch.tensor([orders.index(sorted(order)) for order in orders])
    return torch.zeros_like(probabilities_S).index_add(0, listed, probabilities_S)


WEIGHTS = [over_m, twice_corrected, best_as_baseline]
ORDERS = [not_renormalised, first_arm_alone, in_any_order, turned]


@pytest.mark.parametrize("by_set", [False, True], ids=["by-order", "by-set"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_estimate_is_unbiased(size, by_set):
    check_unbiased(Problem(*size, by_set), real)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_log_probability_is_that_of_the_definition(size):
    problem = Problem(*size)
    expected_S = problem.probabilities(problem.logits_A)
    log_q_SA = problem.logits_A.log_softmax(-1).expand(len(expected_S), -1)
    found_S = log_probability(log_q_SA, problem.orders_SK).exp()
    torch.testing.assert_close(found_S, expected_S, rtol=1e-12, atol=0)
    assert found_S.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mutation", WEIGHTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_other_weights_are_biased(size, mutation):
    with pytest.raises(AssertionError):
        check_unbiased(Problem(*size), mutation, WIDE)


@pytest.mark.parametrize("mutation", ORDERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [size for size in SIZES if size[1] > 1], ids=str)
def test_another_q_is_biased(size, mutation):
    """The loss may depend on the order here: if it does not, the sum over orders will do too."""
    with pytest.raises(AssertionError):
        check_unbiased(Problem(*size), mutation, WIDE)


@pytest.mark.parametrize("size", [size for size in SIZES if 1 < size[1] < size[0]], ids=str)
def test_an_unordered_draw_is_biased(size):
    with pytest.raises(AssertionError):
        check_unbiased(Problem(*size, by_set=True), real, WIDE, sorted_draw)


@pytest.mark.parametrize("size", [(3, 2, 2), (4, 2, 3)], ids=str)
def test_one_over_m_is_too_small_by_that(size):
    """Half too small for M = 2, which no learning rate would show."""
    problem = Problem(*size)
    mean_A = problem.odds(problem.probabilities(problem.logits_A)) @ problem.estimates(over_m)
    torch.testing.assert_close(
        mean_A, problem.exact() * (size[2] - 1) / size[2], rtol=EXACT, atol=0
    )


def test_the_variance_falls_with_m():
    """Exactly ``a / M + b / (M (M - 1))``, as of any mean over pairs (a U-statistic of order 2)."""
    found = {}
    for samples in (2, 3, 4, 5):
        problem = Problem(3, 2, samples)
        problem.logits_A, problem.losses_S = Problem(3, 2, 2).logits_A, Problem(3, 2, 2).losses_S
        odds_N = problem.odds(problem.probabilities(problem.logits_A))
        apart_NA = problem.estimates(real) - problem.exact()
        found[samples] = float(odds_N @ apart_NA.square().sum(-1))
    terms = torch.tensor([[1 / 2, 1 / 2], [1 / 3, 1 / 6]], dtype=torch.float64)
    a, b = torch.linalg.solve(terms, torch.tensor([found[2], found[3]], dtype=torch.float64))
    assert a > 0
    assert b > 0
    for samples in (4, 5):
        assert found[samples] == pytest.approx(float(a / samples + b / (samples**2 - samples)))
    assert found[2] > 1.5 * found[3] > 2 * found[4] > 2.5 * found[5]
