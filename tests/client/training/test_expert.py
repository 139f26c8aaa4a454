"""Training of factors over a frozen base."""

import itertools

import pytest
import torch

from fedmore.client.training import progress
from fedmore.client.training.expert import FLOOR, Schedule, train
from fedmore.client.training.progress import CancelledError
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.experts.low_rank_linear import combine
from fedmore.experts.spec import ExpertSpec
from fedmore.experts.text.windows import windows

TEXTS = ["stir the soup twice, wait 9 minutes, then taste the broth. " * 4]
SPEC = ExpertSpec("kitchen/a", "expert", "kitchen", 4)


@pytest.fixture
def base(tiny):
    return load_base(str(tiny), "float32")


@pytest.fixture
def fit(base):
    """Call it: trains for a few steps; returns what came out and what was reported."""
    sites = SPEC.sites(shapes_of(base.model))

    def run(start=None, frozen=None, steps=8, rate=1e-2, report=None, number=1, rounds=1):
        reports = []
        start = start or low_rank.initial(SPEC, sites, 0)
        text = windows(TEXTS, base.text, 32, steps * 2, 0)
        schedule = Schedule(steps, 2, rate, number, rounds)
        report = report or (lambda *values: reports.append(values))
        done = train(base.model, sites, start, frozen, SPEC.scale, text, schedule, report)
        return done, reports

    return run


def test_the_loss_falls_and_every_step_is_reported(fit):
    done, reports = fit(steps=12)
    losses = [loss for _, _, loss, _, _ in reports]
    assert [step for step, *_ in reports] == list(range(1, 13))
    assert {steps for _, steps, *_ in reports} == {12}
    assert [tokens for *_, tokens in reports] == [64 * i for i in range(1, 13)]
    assert losses[-1] < losses[0] - 0.2
    assert done.loss == pytest.approx(sum(losses) / 12)
    assert done.tokens == 12 * 2 * 32
    assert done.tokens_per_s > 0


def test_base_and_start_stay_as_they_were(fit, base):
    weights = {name: p.clone() for name, p in base.model.named_parameters()}
    sites = SPEC.sites(shapes_of(base.model))
    start = low_rank.initial(SPEC, sites, 0)
    before = {path: (b.clone(), a.clone()) for path, (b, a) in start.items()}
    done, _ = fit(start, steps=2)
    assert all(torch.equal(p, weights[name]) for name, p in base.model.named_parameters())
    assert not base.model.training
    for path, (b, a) in start.items():
        assert torch.equal(b, before[path][0])
        assert torch.equal(a, before[path][1])
        assert not torch.equal(done.factors[path][0], b)
        assert done.factors[path][0].dtype == torch.float32
        assert not done.factors[path][0].requires_grad


def test_the_same_again_is_the_same_bit_for_bit(fit):
    first, second = fit(steps=3)[0], fit(steps=3)[0]
    for path, pair in first.factors.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, second.factors[path], strict=True))
    assert first.loss == second.loss


def test_training_starts_at_the_aggregate(fit, base):
    """Aggregate less own component as the frozen part: the first loss is the aggregate's."""
    sites = SPEC.sites(shapes_of(base.model))
    own = {
        p: (torch.randn_like(b) * 0.02, a) for p, (b, a) in low_rank.initial(SPEC, sites, 0).items()
    }
    aggregate = {
        s.path: (torch.randn(s.out_features, 5) * 0.5, torch.randn(5, s.in_features) * 0.5)
        for s in sites
    }
    _, alone = fit(low_rank.initial(SPEC, sites, 0), aggregate, steps=1)
    _, mixed = fit(own, combine([(aggregate, 1.0), (own, -SPEC.scale)]), steps=1)
    assert mixed[0][2] == pytest.approx(alone[0][2], abs=1e-4)
    _, without = fit(low_rank.initial(SPEC, sites, 0), None, steps=1)
    assert abs(without[0][2] - alone[0][2]) > 1e-2


def test_a_loss_that_is_not_finite_ends_the_training(fit, base):
    sites = SPEC.sites(shapes_of(base.model))
    bad = {p: (b + float("nan"), a) for p, (b, a) in low_rank.initial(SPEC, sites, 0).items()}
    with pytest.raises(FloatingPointError, match=r"loss nan at step 1: lower learning_rate"):
        fit(bad, steps=2)


def test_a_report_may_cancel(fit):
    done = []

    def cancel(step, *_):
        done.append(step)
        raise CancelledError

    with pytest.raises(CancelledError):
        fit(report=cancel)
    assert done == [1]


def test_progress_without_a_listener_is_nothing(fit):
    assert fit(steps=1, report=progress.report)[0].tokens == 64


def test_the_learning_rate_warms_up_in_every_round_and_decays_over_all():
    rates = [
        Schedule(10, 1, 1.0, number, 3).rate(step) for number in (1, 2, 3) for step in range(10)
    ]
    assert rates[0] == pytest.approx(0.5)
    assert max(rates) == rates[1] <= 1
    assert rates[10] < rates[9]
    assert rates[11] > rates[10]
    assert all(a > b for a, b in itertools.pairwise(rates[21:]))
    assert FLOOR < rates[-1] < 0.2
    assert min(rates) > 0


def test_one_step_is_a_schedule():
    assert Schedule(1, 1, 0.5, 1, 1).rate(0) == 0.5
