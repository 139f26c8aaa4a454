"""Training a router: every kind learns, the same each time, and says how it went."""

import pytest
import torch
from thinning import rarer_slow

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.model import assemble
from fedmore.experts.mixture.routing.state import Wishes
from fedmore.experts.router_training.gradient import Training, batches, train_router, window_losses
from fedmore.experts.router_training.usage import by_decision
from fedmore.experts.routers.sampling import effective_size
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import LEARNED, PER_LAYER, RouterSpec

TRAINING = Training(steps=12, batch_size=8, learning_rate=0.1, num_selections=8)
ROUTERS = [  # kind, top_k, decisions, level
    ("softmax", 0, 1, "sequence"), ("softmax", 2, 6, "token"), ("softmax", 1, 1, "request"),
    ("xlora", 0, 6, "sequence"), ("xlora", 1, 6, "token"),
    ("remix", 1, 1, "sequence"), ("remix", 1, 1, "request"), ("remix", 2, 1, "token"),
    ("remix", 1, 6, "sequence"), ("remix", 2, 6, "token"),
]  # fmt: skip
OFTEN = [*ROUTERS[:2], ROUTERS[3], ROUTERS[6], ROUTERS[9]]
EACH = pytest.mark.parametrize(
    "shape", rarer_slow(ROUTERS, OFTEN), ids=lambda shape: "-".join(map(str, shape))
)


@torch.no_grad()
def held_out(toy, mixture):
    return float(window_losses(mixture.model, toy.both(8, seed=99)).mean())


def shares(toy, mixture, kind):
    """What the public expert, the worse and the better one have of a kind of text."""
    return by_decision(mixture, toy.text(kind, 8, seed=99)).mean((0, 1)).tolist()


def test_the_toy_is_what_it_says(toy):
    mixture = toy.mixture("uniform")
    loss = {}
    for place, name in enumerate(("public", "worse", "better")):
        with mixture.gates.asking(forced=torch.eye(3)[place].repeat(8, 1)):
            for kind in "ab":
                loss[name, kind] = float(window_losses(mixture.model, toy.text(kind, 8, 99)).mean())
    assert loss["better", "a"] < loss["public", "a"] - 0.3
    assert loss["better", "b"] > loss["public", "b"] + 0.05
    assert all(loss["worse", kind] > loss["public", kind] + 0.1 for kind in "ab")


@EACH
def test_training_lowers_the_loss(toy, shape):
    mixture = toy.mixture(*shape)
    before = held_out(toy, mixture)
    trace = train_router(mixture, toy.both(16, seed=7), TRAINING)
    assert held_out(toy, mixture) < before - 0.1
    assert min(trace.losses[-4:]) < trace.losses[0]
    a, b = (shares(toy, mixture, kind) for kind in "ab")
    assert a[2] > a[1] + 0.1  # not the worse one
    assert a[2] > b[2] + 0.1  # the better one where it is better


@EACH
def test_the_same_seed_gives_the_same_bits(toy, shape):
    def trained(seed):
        mixture = toy.mixture(*shape)
        training = Training(steps=3, batch_size=4, learning_rate=0.1, seed=seed)
        return train_router(mixture, toy.both(4, seed=7), training), mixture.router.state_dict()

    (first, one), (second, other) = trained(1), trained(1)
    assert (first.losses, first.ess) == (second.losses, second.ess)
    assert all(torch.equal(one[name], other[name]) for name in one)
    if shape[0] == "remix":
        third, _ = trained(2)
        assert third.losses != first.losses


@pytest.mark.parametrize("kind", ["uniform", "domain", "arrow"])
def test_routers_that_are_set_are_not_trained(toy, kind):
    assert kind not in LEARNED
    spec = RouterSpec(kind, 2, 64, 6 if kind in PER_LAYER else 1)
    mixture = assemble(toy.base.model, toy.experts, make_router(spec))
    with pytest.raises(ConfigError, match=f"'{kind}' is set, not trained"):
        train_router(mixture, toy.both(2, seed=7), TRAINING)


@EACH
def test_the_trace_has_the_effective_size_of_every_decision(toy, shape):
    kind, top_k, decisions, _ = shape
    mixture, windows = toy.mixture(*shape), toy.both(4, seed=7)
    for parameter in mixture.router.parameters():
        torch.nn.init.normal_(parameter)
    found = effective_size(by_decision(mixture, windows[:, :-1])).mean(1).tolist()
    trace = train_router(mixture, windows, Training(steps=2, batch_size=8))
    assert [len(ess) for ess in trace.ess] == [decisions] * 2
    if kind == "remix":
        assert trace.ess == [[top_k] * decisions] * 2
        assert found == pytest.approx([top_k] * decisions)
    else:
        assert trace.ess[0] == pytest.approx(found, rel=1e-5)
        assert all(1 <= size <= 3 for ess in trace.ess for size in ess)


def test_the_trace_has_losses_and_times_and_reports_are_made(toy):
    told = []
    mixture, windows = toy.mixture("softmax"), toy.both(4, seed=7)
    with torch.no_grad():
        first = float(window_losses(mixture.model, windows[:4]).mean())
    training = Training(steps=3, batch_size=4, balance_weight=50.0, z_loss_weight=50.0)
    trace = train_router(mixture, windows, training, lambda *given: told.append(given))
    assert told == [(step + 1, 3, loss) for step, loss in enumerate(trace.losses)]
    assert trace.losses[0] == pytest.approx(first)  # without what the auxiliary losses add
    assert len(trace.seconds) == 3
    assert trace.steps_per_s == pytest.approx(3 / sum(trace.seconds))


def test_windows_are_gone_through_in_their_order():
    assert list(batches(5, Training(steps=3, batch_size=4))) == [
        [0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1],
    ]  # fmt: skip


def test_the_rate_falls_in_a_straight_line_towards_a_tenth():
    rates = [Training(steps=4).rate(step) for step in range(4)]
    assert rates == pytest.approx([1, 0.775, 0.55, 0.325])


@EACH
def test_a_loss_that_is_no_number_stops_the_training(toy, shape):
    """And changes nothing."""
    mixture = toy.mixture(*shape)
    before = {name: tensor.clone() for name, tensor in mixture.router.state_dict().items()}
    mixture.model.get_output_embeddings().register_forward_hook(lambda *given: given[-1] / 0)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train_router(mixture, toy.both(4, seed=7), TRAINING)
    for name, tensor in mixture.router.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert mixture.gates.wishes == Wishes()
