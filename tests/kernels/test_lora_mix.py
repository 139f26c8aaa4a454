"""lora_mix against its specification, values and gradients, in float64."""

import pytest
import torch

from fedmore.kernels.lora_mix import cpu, reference

D, O = 6, 9  # noqa: E741 - the shape's letters


def adapters(*ranks, dtype=torch.float64):
    return [(torch.randn(O, r, dtype=dtype), torch.randn(r, D, dtype=dtype)) for r in ranks]


def some(tokens, count):
    gates = torch.rand(tokens, count, dtype=torch.float64)
    gates[torch.rand(tokens, count) < 0.5] = 0
    gates[0, 0] = 0.25
    double = {"dtype": torch.float64}
    return torch.randn(tokens, O, **double), torch.randn(tokens, D, **double), gates


@pytest.mark.parametrize("tokens", [1, 12])
@pytest.mark.parametrize("ranks", [(1,), (2, 5), (6, 1, 3), (0,), (2, 0)])
def test_equals_the_reference_with_gradients(tokens, ranks):
    y, x, gates = some(tokens, len(ranks))
    mix = adapters(*ranks)
    leaves = [y, x, *(t for pair in mix for t in pair)]
    for leaf in [*leaves, gates]:
        leaf.requires_grad_(True)
    found, wanted = cpu.lora_mix(y, x, gates, mix), reference.lora_mix(y, x, gates, mix)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    seed = torch.randn(tokens, O, dtype=torch.float64)
    pairs = (
        torch.autograd.grad(out, [*leaves, gates], seed, materialize_grads=True)
        for out in (found, wanted)
    )
    for a, b in zip(*pairs, strict=True):
        wanted_here = b * (gates != 0) if b.shape == gates.shape else b
        torch.testing.assert_close(a, wanted_here, rtol=1e-9, atol=1e-11)


def test_gradcheck():
    mix = adapters(2, 3)
    flat = [t.requires_grad_(True) for pair in mix for t in pair]
    y, x, _ = some(3, 2)
    gates = torch.tensor([[0.2, 0.4], [0.3, 0.3], [0.6, 0.1]], dtype=torch.float64)

    def run(y, x, gates, *flat):
        return cpu.lora_mix(y, x, gates, list(zip(flat[::2], flat[1::2], strict=True)))

    leaves = [t.requires_grad_(True) for t in (y, x, gates)]
    assert torch.autograd.gradcheck(run, (*leaves, *flat))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_gates_zero_is_y_bit_for_bit_and_y_is_not_changed(dtype):
    y, x = torch.randn(5, O).to(dtype), torch.randn(5, D).to(dtype)
    mix, before = adapters(4, 2, dtype=dtype), y.clone()
    assert torch.equal(cpu.lora_mix(y, x, torch.zeros(5, 2), mix), before)
    cpu.lora_mix(y, x, torch.ones(5, 2), mix)
    assert torch.equal(y, before)


def test_nan_in_a_row_stays_in_its_row_and_unused_adapters_are_not_touched():
    y, x, gates = some(6, 2)
    mix = adapters(3, 2)
    clean = cpu.lora_mix(y, x, gates, mix)
    x[4], gates[4] = float("nan"), 0
    assert torch.equal(cpu.lora_mix(y, x, gates, mix)[:4], clean[:4])
    assert torch.equal(cpu.lora_mix(y, x, gates, mix)[4], y[4])
    mix.append(
        (torch.full((O, 1), float("nan")).double(), torch.full((1, D), float("nan")).double())
    )
    wider = torch.cat([gates, torch.zeros(6, 1)], dim=1)
    assert torch.equal(cpu.lora_mix(y, x, wider, mix)[:4], clean[:4])


def test_no_tokens():
    gates = torch.zeros(0, 1, dtype=torch.float64)
    y, x = torch.zeros(0, O, dtype=torch.float64), torch.zeros(0, D, dtype=torch.float64)
    assert cpu.lora_mix(y, x, gates, adapters(2)).shape == (0, O)
