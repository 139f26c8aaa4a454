"""BitDelta: one bit a number and a scale a matrix for a full-size expert, scales then tuned."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedmore.experts.base.model import load_base
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.strategies.compression.codec import CODECS, decode, encode
from fedmore.strategies.compression.distil import (
    binary,
    changed,
    initial_scales,
    logit_error,
    tune,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_base(str(make_tiny_base(tmp_path_factory.mktemp("base"))), "float32").model


@pytest.fixture(scope="module")
def deltas(model):
    """What 20 steps of training change in all FFNs: along the inputs, as noise is not."""
    expert = copy.deepcopy(model)
    paths = [
        p for p, _ in expert.named_modules() if p.endswith(("gate_proj", "up_proj", "down_proj"))
    ]
    weights = [expert.get_submodule(path).weight.requires_grad_(True) for path in paths]
    optimiser = torch.optim.Adam(weights, 3e-3)
    for batch in ids(20, 1):
        logits = expert(input_ids=batch[:, :-1], use_cache=False).logits
        cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return {
        path: (weight - model.get_submodule(path).weight).detach()
        for path, weight in zip(paths, weights, strict=True)
    }


def ids(count, seed):
    """Batches [count, 4, 24] of tokens that count in sevens."""
    first = torch.randint(1, 250, (count, 4, 1), generator=torch.Generator().manual_seed(seed))
    return (first + 7 * torch.arange(24)) % 250 + 1


def test_it_starts_at_the_least_squares_scale(deltas):
    for path, scale in initial_scales(deltas).items():
        delta = deltas[path].double()

        def loss(s, delta=delta):
            return float((delta - s * delta.sign()).square().sum())

        assert loss(scale) <= min(loss(scale * 1.001), loss(scale * 0.999))


def test_tuned_scales_lower_the_logit_error_on_text_that_was_not_tuned_on(model, deltas):
    before = initial_scales(deltas)
    after = tune(model, deltas, ids(12, 3), epochs=2, learning_rate=0.05)
    assert after.keys() == before.keys()
    assert all(scale > 0 for scale in after.values())
    errors = [logit_error(model, deltas, scales, ids(4, 2)) for scales in (before, after)]
    assert errors[1] < 0.8 * errors[0]  # 0.63 here


def test_a_scale_of_an_equal_magnitude_change_is_right_from_the_start(model, deltas):
    even = binary(deltas, initial_scales(deltas))
    assert logit_error(model, even, initial_scales(even), ids(2, 3)) < 1e-9
    for path, scale in tune(model, even, ids(4, 4)).items():
        assert scale == pytest.approx(initial_scales(even)[path], rel=0.03)


def test_the_codec_carries_tuned_scales_as_they_are(deltas):
    scales = {path: 1.37 * scale for path, scale in initial_scales(deltas).items()}
    matrices = list(binary(deltas, scales).values())
    data = encode(CODECS["bitdelta"], matrices)
    numbers = sum(m.numel() for m in matrices)
    assert len(data) == sum(4 + (m.numel() + 7) // 8 for m in matrices)
    assert numbers * 4 / len(data) > 31
    found = decode(CODECS["bitdelta"], data, [tuple(m.shape) for m in matrices])
    assert all(torch.equal(a, b) for a, b in zip(found, matrices, strict=True))


def test_the_model_stays_as_it_is_and_the_dense_change_is_the_teacher(model, deltas):
    weights = [p.clone() for p in model.parameters()]
    batch = ids(1, 5)[0]
    before = model(input_ids=batch).logits
    teacher = changed(model, deltas)
    assert not any(p.requires_grad for p in teacher.parameters())
    tune(model, deltas, ids(1, 6))
    assert torch.equal(model(input_ids=batch).logits, before)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))
    path = next(iter(deltas))
    x = torch.randn(3, deltas[path].shape[1])
    layer = model.get_submodule(path)
    expected = torch.nn.functional.linear(x, layer.weight + deltas[path])
    torch.testing.assert_close(teacher.get_submodule(path)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_is_said(model, deltas):
    broken = {path: delta * 1e30 for path, delta in deltas.items()}
    with pytest.raises(FloatingPointError, match="at step 1: lower learning_rate"):
        tune(model, broken, ids(1, 7))
