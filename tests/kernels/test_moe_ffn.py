"""moe_ffn against its specification, values and gradients, in float64."""

import pytest
import torch
from torch.nn.functional import linear, silu

from fedmore.kernels.moe_ffn import cpu, reference

D, H = 6, 10
RANKS = [(1, 3, 2), (4, 1, 5), (6, 6, 6), (0, 0, 2), (3, 2, 0)]


def expert(ranks):
    g, u, d = ranks
    double = {"dtype": torch.float64}

    def pair(out, rank, inner):
        return torch.randn(out, rank, **double) * 0.3, torch.randn(rank, inner, **double) * 0.3

    return pair(H, g, D), pair(H, u, D), pair(D, d, H)


@pytest.fixture
def layer():
    """Frozen weights, and the same as the linear layers that the kernel calls."""
    shapes = ((H, D), (H, D), (D, H))
    weights = tuple(torch.randn(*shape, dtype=torch.float64) * 0.4 for shape in shapes)
    return weights, tuple((lambda x, w=w: linear(x, w)) for w in weights)


def some_gates(tokens, experts):
    """Some rows zero, some with one expert, some with all."""
    gates = torch.rand(tokens, experts, dtype=torch.float64) / experts
    gates[torch.rand(tokens, experts) < 0.4] = 0
    gates[::5] = 0
    return gates


def grads(output, inputs):
    loss = (output * torch.arange(1, D + 1)).sum()
    return torch.autograd.grad(loss, inputs, materialize_grads=True)


@pytest.mark.parametrize("tokens", [1, 2, 13])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_equals_the_reference_with_gradients(layer, tokens, count):
    weights, base = layer
    experts = [expert(ranks) for ranks in RANKS[:count]]
    x = torch.randn(tokens, D, dtype=torch.float64)
    gates = some_gates(tokens, count)
    gates[0, 0] = 0.3
    leaves = [x, gates, *(t for e in experts for pair in e for t in pair)]
    for leaf in leaves:
        leaf.requires_grad_(True)
    found = cpu.moe_ffn(x, gates, base, experts, silu)
    wanted = reference.moe_ffn(x, gates, weights, experts, silu)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    kept = [leaf for i, leaf in enumerate(leaves) if i != 1]
    for a, b in zip(grads(found, kept), grads(wanted, kept), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_gates_of_routed_tokens_have_the_references_gradient(layer):
    """A gate of exactly zero is not looked at, so it has none."""
    weights, base = layer
    experts = [expert(ranks) for ranks in RANKS]
    x = torch.randn(7, D, dtype=torch.float64)
    gates = some_gates(7, len(RANKS)).requires_grad_(True)
    (found,) = grads(cpu.moe_ffn(x, gates, base, experts, silu), [gates])
    (wanted,) = grads(reference.moe_ffn(x, gates, weights, experts, silu), [gates])
    torch.testing.assert_close(found, wanted * (gates != 0), rtol=1e-9, atol=1e-11)


def test_gradcheck(layer):
    _, base = layer
    experts = [expert((2, 1, 3)), expert((1, 2, 1))]
    x = torch.randn(3, D, dtype=torch.float64, requires_grad=True)
    gates = torch.tensor([[0.2, 0.5], [0.4, 0.3], [0.1, 0.7]], dtype=torch.float64)
    flat = [t.requires_grad_(True) for e in experts for pair in e for t in pair]

    def run(x, gates, *flat):
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        return cpu.moe_ffn(x, gates, base, [tuple(pairs[:3]), tuple(pairs[3:])], silu)

    assert torch.autograd.gradcheck(run, (x, gates.requires_grad_(True), *flat))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_all_gates_zero_is_the_base_bit_for_bit(layer, dtype):
    weights = [w.to(dtype) for w in layer[0]]
    base = tuple((lambda x, w=w: linear(x, w)) for w in weights)
    experts = [tuple((b.to(dtype), a.to(dtype)) for b, a in expert(r)) for r in RANKS]
    x = torch.randn(9, D).to(dtype)
    gate, up, down = base
    found = cpu.moe_ffn(x, torch.zeros(9, len(RANKS), dtype=dtype), base, experts, silu)
    assert torch.equal(found, down(silu(gate(x)) * up(x)))


def test_a_token_without_expert_is_the_bases_bit_for_bit(layer):
    _, base = layer
    gate, up, down = base
    x = torch.randn(8, D, dtype=torch.float64)
    gates = torch.rand(8, len(RANKS), dtype=torch.float64)
    gates[2] = gates[5] = 0
    found = cpu.moe_ffn(x, gates, base, [expert(r) for r in RANKS], silu)
    assert torch.equal(found[[2, 5]], down(silu(gate(x)) * up(x))[[2, 5]])


def test_an_expert_with_weight_1_takes_the_bases_place(layer):
    (g, u, d), base = layer
    (bg, ag), (bu, au), (bd, ad) = chosen = expert((3, 2, 4))
    x = torch.randn(5, D, dtype=torch.float64)
    found = cpu.moe_ffn(x, torch.ones(5, 1, dtype=torch.float64), base, [chosen], silu)
    dense = linear(silu(linear(x, g + bg @ ag)) * linear(x, u + bu @ au), d + bd @ ad)
    torch.testing.assert_close(found, dense)


@pytest.mark.parametrize("routed", [True, False])
def test_nan_in_a_row_stays_in_its_row(layer, routed):
    _, base = layer
    experts = [expert(r) for r in RANKS]
    x = torch.randn(6, D, dtype=torch.float64)
    gates = some_gates(6, len(RANKS)) + 0.1
    gates[3] = 0.5 if routed else 0
    clean = cpu.moe_ffn(x, gates, base, experts, silu)
    x[3] = float("nan")
    poisoned = cpu.moe_ffn(x, gates, base, experts, silu)
    others = [0, 1, 2, 4, 5]
    assert torch.isnan(poisoned[3]).all()
    assert torch.equal(poisoned[others], clean[others])


def test_an_expert_that_nobody_uses_is_not_touched(layer):
    """Its factors may be anything: an expert of weight 0 costs nothing and spoils nothing."""
    _, base = layer
    good, bad = expert(RANKS[0]), expert(RANKS[1])
    for b, a in bad:
        b.fill_(float("nan"))
        a.fill_(float("nan"))
    x = torch.randn(4, D, dtype=torch.float64)
    gates = torch.tensor([[0.5, 0.0]] * 4, dtype=torch.float64)
    alone = cpu.moe_ffn(x, gates[:, :1], base, [good], silu)
    assert torch.equal(cpu.moe_ffn(x, gates, base, [good, bad], silu), alone)


def test_no_tokens(layer):
    _, base = layer
    x = torch.zeros(0, D, dtype=torch.float64)
    found = cpu.moe_ffn(x, torch.zeros(0, 1, dtype=torch.float64), base, [expert(RANKS[0])], silu)
    assert found.shape == (0, D)
