"""What a training of the router changes, what it differentiates, and what it leaves alone."""

import copy

import pytest
import torch
from thinning import rarer_slow

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.model import assemble
from fedmore.experts.router_training.gradient import Training, train_router

KINDS = [("softmax", 0, 1), ("softmax", 2, 6), ("xlora", 2, 6), ("remix", 1, 1), ("remix", 2, 6)]
EACH = pytest.mark.parametrize(
    "shape", rarer_slow(KINDS, KINDS[::2]), ids=lambda shape: "-".join(map(str, shape))
)

ARM = 2
SHORT = {"steps": 3, "batch_size": 4, "learning_rate": 0.1}


def frozen_copy(router):
    return copy.deepcopy(router.state_dict())


def tensors(experts):
    return [tensor for factors in experts.values() for pair in factors.values() for tensor in pair]


@pytest.fixture
def untouched(toy):
    """Fails the test if the base or the given experts are other bits at its end."""
    kept = [*toy.base.model.state_dict().values(), *tensors(toy.experts)]
    before = [tensor.clone() for tensor in kept]
    yield
    assert all(torch.equal(now, then) for now, then in zip(kept, before, strict=True))
    assert not any(tensor.requires_grad for tensor in kept)


def entries(router, name, tensor):
    """A tensor with the arm's entries, and with all others."""
    axis = router.arm_axes.get(name)
    if axis is None:
        return tensor[:0], tensor
    arms = torch.arange(tensor.shape[axis])
    return tensor.index_select(axis, arms[arms == ARM]), tensor.index_select(
        axis, arms[arms != ARM]
    )


@EACH
def test_one_arm_alone(toy, untouched, shape):
    """Of a router that was trained before: nothing else is another bit."""
    mixture = toy.mixture(*shape)
    router, windows = mixture.router, toy.both(8, seed=7)
    train_router(mixture, windows, Training(**SHORT))
    before = frozen_copy(router)
    train_router(mixture, windows, Training(**SHORT, only=(ARM,)))
    for name, tensor in router.state_dict().items():
        own, others = entries(router, name, tensor)
        own_before, others_before = entries(router, name, before[name])
        assert torch.equal(others, others_before)
        assert name not in router.arm_axes or not torch.equal(own, own_before)


@pytest.mark.parametrize("name", ["softmax-2-shared-sequence", "remix-2-shared-sequence"])
def test_one_arm_alone_of_a_router_that_starts_from_domain_embeddings(
    base, experts, case_of, toy, name
):
    """Neither the evidence nor how far it is trusted is the arm's; the former is never trained."""
    router = case_of(f"{name}-started").make(base, experts)
    mixture = assemble(base.model, experts, router)
    changed = []
    for only in ((ARM,), ()):
        before = frozen_copy(router)
        train_router(mixture, toy.both(8, seed=7), Training(**SHORT, only=only))
        state = router.state_dict()
        changed.append({name for name in state if not torch.equal(state[name], before[name])})
        others = torch.arange(4) != ARM
        assert not only or torch.equal(state["lean_A"][others], before["lean_A"][others])
    assert changed == [
        {"rows_LAD", "bias_LA", "lean_A"},
        {"rows_LAD", "bias_LA", "lean_A", "trust"},
    ]


@EACH
def test_several_arms_are_all_arms_if_all_are_named(toy, shape):
    found = []
    for only in ((), (0, 1, 2)):
        mixture = toy.mixture(*shape)
        train_router(mixture, toy.both(8, seed=7), Training(**SHORT, only=only))
        found.append(mixture.router.state_dict())
    for name in mixture.router.arm_axes.keys() & found[0].keys():
        if shape[0] != "xlora":  # whose hidden layer is of no arm
            assert torch.equal(found[0][name], found[1][name])
        assert not torch.equal(found[1][name], torch.zeros_like(found[1][name]))


@EACH
@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_experts_are_trained_where_a_rate_says_so(toy, untouched, shape, rate):
    """Copies of them; those that were given stay as they are."""
    mixture = toy.mixture(*shape, trainable=True)
    before = [tensor.detach().clone() for tensor in tensors(mixture.trained)]
    trace = train_router(
        mixture, toy.both(8, seed=7), Training(**SHORT, experts_learning_rate=rate)
    )
    changed = [
        not torch.equal(now, then)
        for now, then in zip(tensors(mixture.trained), before, strict=True)
    ]
    assert all(changed) if rate else not any(changed)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(mixture.trained))
    assert len(trace.losses) == 3


@pytest.mark.parametrize(
    "shape", rarer_slow(KINDS[::2], KINDS[:1]), ids=lambda shape: "-".join(map(str, shape))
)
def test_experts_that_are_trained_too_end_lower(toy, shape):
    ends = []
    for rate in (0.0, 0.02):
        mixture = toy.mixture(*shape, trainable=True)
        training = Training(steps=6, batch_size=8, experts_learning_rate=rate)
        ends.append(train_router(mixture, toy.both(8, seed=7), training).losses[-1])
    assert ends[1] < ends[0] - 0.1


def test_experts_are_not_trained_in_a_frozen_mixture(toy):
    with pytest.raises(
        ConfigError, match="experts_learning_rate: the mixture was not assembled trainable"
    ):
        train_router(toy.mixture("softmax"), toy.both(2, 7), Training(experts_learning_rate=0.1))


@EACH
def test_nothing_but_the_router_is_differentiated(toy, untouched, shape):
    """ReMix looks at losses alone: its forward passes are in inference mode."""
    mixture, seen = toy.mixture(*shape), set()

    def watch(_module, _inputs, output):
        seen.add((torch.is_inference_mode_enabled(), output.requires_grad))

    mixture.model.get_decoder().layers[-1].mlp.register_forward_hook(watch)
    train_router(mixture, toy.both(8, seed=7), Training(**SHORT, num_selections=2))
    assert (
        seen
        == {
            "softmax": {(False, True)},
            "xlora": {(False, False), (False, True)},  # the base's pass, then the mixture's
            "remix": {(True, False)},
        }[shape[0]]
    )
    assert not any(p.requires_grad or p.grad is not None for p in mixture.model.parameters())
    assert not any(tensor.requires_grad for tensor in tensors(mixture.experts))
    assert not any(tensor.is_inference() for tensor in mixture.router.state_dict().values())


def test_the_router_of_remix_is_differentiated_outside_of_inference_mode(toy):
    mixture = toy.mixture("remix", 1, 6)
    grads = []
    for parameter in mixture.router.parameters():
        parameter.register_hook(lambda grad: grads.append(torch.is_inference_mode_enabled()))
    train_router(mixture, toy.both(8, seed=7), Training(**SHORT))
    assert grads == [False] * len(grads)
    assert len(grads) >= 2 * 3
