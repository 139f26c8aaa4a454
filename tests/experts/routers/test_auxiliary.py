"""What is added to the loss: load balance and the logits' size, entropy; against plain arithmetic.

Shape suffixes: N tokens, A arms.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from fedmore.experts.router_training import reinforce
from fedmore.experts.router_training.gradient import (
    ByGradient,
    Training,
    balance_loss,
    token_losses,
    train_router,
    window_losses,
)

EXACT = 1e-6  # the parts of the choices are float32
LOGITS = [[2.0, 0.0, -1.0], [0.5, 1.5, 0.0], [3.0, 1.0, 2.0], [1.0, 0.0, -2.0]]


def softmax(row):
    parts = [math.exp(x) for x in row]
    return [part / sum(parts) for part in parts]


def balance_by_hand(rows, k):
    arms = len(rows[0])
    chosen = [sorted(range(arms), key=lambda a: -row[a])[:k] for row in rows]
    share = [sum(a in c for c in chosen) / (k * len(rows)) for a in range(arms)]
    mean = [sum(softmax(row)[a] for row in rows) / len(rows) for a in range(arms)]
    return arms * sum(f * p for f, p in zip(share, mean, strict=True))


def z_by_hand(rows):
    return sum(math.log(sum(map(math.exp, row))) ** 2 for row in rows) / len(rows)


def auxiliary(*decisions, top_k=0, init="zero", **weights):
    """What a step adds for the logits [B, T, A] of some decisions."""
    router = SimpleNamespace(spec=SimpleNamespace(top_k=top_k, init=init))
    method = ByGradient(SimpleNamespace(router=router), None, Training(**weights))
    return method._auxiliary(decisions)


def descended(loss, logits, size=0.1):
    """The logits after one step down."""
    return (logits - size * torch.autograd.grad(loss, logits)[0]).detach()


def logits_of(rows=LOGITS):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("k", [1, 2, 3, 0, 5])
def test_balance(k):
    """Of 0 all arms are chosen, and of more than there are."""
    found = balance_loss(logits_of(), k).item()
    assert found == pytest.approx(balance_by_hand(LOGITS, min(k or 3, 3)), abs=EXACT)
    if k in (0, 3, 5):
        assert found == pytest.approx(1, abs=EXACT)


def test_balance_is_one_where_all_arms_are_alike_and_all_of_them_where_one_does_everything():
    turns = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    assert balance_loss(turns, 1).item() == pytest.approx(1, abs=EXACT)
    alone = torch.tensor([[60.0, 0, 0]] * 5, dtype=torch.float64)
    assert balance_loss(alone, 1).item() == pytest.approx(3, abs=EXACT)


def test_balance_takes_from_the_arm_that_has_most():
    logits = logits_of()
    after = descended(balance_loss(logits, 1), logits)
    before_A, after_A = (x.softmax(-1).mean(0) for x in (logits, after))
    assert after_A[0] < before_A[0]  # three of four tokens choose it
    assert balance_loss(after, 1).item() < balance_loss(logits, 1).item()


def test_auxiliary_losses_are_weighed_and_are_the_mean_over_decisions():
    other = [[0.0, 4.0, 1.0], [0.5, 0.5, 0.4]]
    first, second = logits_of().view(2, 2, 3), logits_of(other).view(1, 2, 3)
    found = auxiliary(first, second, top_k=1, balance_weight=0.7, z_loss_weight=0.2)
    expected = sum(0.7 * balance_by_hand(x, 1) + 0.2 * z_by_hand(x) for x in (LOGITS, other)) / 2
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, abs=EXACT)
    assert auxiliary(first, balance_weight=0.0, z_loss_weight=0.0).item() == 0
    assert auxiliary(balance_weight=1.0, z_loss_weight=1.0).item() == 0  # of no decisions


def test_the_z_loss_makes_logits_smaller():
    logits = logits_of()
    after = descended(auxiliary(logits[None], balance_weight=0.0, z_loss_weight=1.0), logits)
    assert (after.logsumexp(-1).abs() < logits.logsumexp(-1).abs()).all()
    assert auxiliary(logits[None], init="domain", balance_weight=0.0, z_loss_weight=1.0).item() == 0
    low = logits_of([[-5.0, -6.0, -7.0]])
    raised = descended(auxiliary(low[None], balance_weight=0.0, z_loss_weight=1.0), low)
    assert (raised > low).all()


@pytest.mark.parametrize("shape", [("softmax", 1, 1), ("softmax", 2, 6), ("xlora", 0, 6)], ids=str)
def test_a_step_differentiates_the_sum_and_returns_the_loss_alone(toy, shape):
    mixture, windows = toy.mixture(*shape), toy.both(2, seed=7)
    router = mixture.router
    generator = torch.Generator().manual_seed(1)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    loss = ByGradient(mixture, windows, Training(balance_weight=2.0, z_loss_weight=0.5)).step(
        0, [0, 1, 2]
    )
    stepped = [p.grad.clone() for p in router.parameters()]
    recorded = []
    with mixture.gates.asking(recorded=recorded):
        plain = window_losses(mixture.model, windows[:3]).mean()
    assert len(recorded) == router.spec.layers
    added = auxiliary(*recorded, top_k=shape[1], balance_weight=2.0, z_loss_weight=0.5)
    expected = torch.autograd.grad(plain + added, list(router.parameters()))
    assert loss == pytest.approx(float(plain.detach()))
    for found, wanted in zip(stepped, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_z_loss_holds_a_trained_router_back(toy):
    sizes = []
    for z_loss_weight in (0.0, 1.0):
        mixture = toy.mixture("softmax")
        training = Training(
            steps=8, learning_rate=0.1, balance_weight=0.0, z_loss_weight=z_loss_weight
        )
        train_router(mixture, toy.both(16, seed=7), training)
        sizes.append(float(mixture.router.bias_LA.detach().logsumexp(-1).abs()))
    assert sizes[1] < sizes[0] - 0.3


@pytest.mark.parametrize("shape", [("remix", 1, 1), ("remix", 2, 6, "token")], ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_entropy_is_raised_where_it_is_wanted(toy, shape, weight, monkeypatch):
    """With all losses alike nothing else moves the router."""
    monkeypatch.setattr(reinforce, "token_losses", alike)
    mixture, windows = toy.mixture(*shape), toy.both(4, seed=7)
    router = mixture.router
    router.bias_LA.data[:, 1] = 2.0
    training = Training(steps=4, learning_rate=0.1, num_selections=2, entropy_weight=weight)
    train_router(mixture, windows, training)
    bias = router.bias_LA.detach()
    if weight:
        assert (bias[:, 1] < 1.8).all()
        assert (bias[:, [0, 2]] > 0.1).all()
    else:
        assert torch.equal(bias, torch.tensor([[0.0, 2.0, 0.0]]).expand_as(bias))


def alike(*given):
    return torch.full_like(token_losses(*given), 5.0)
