"""Full-size experts beside low-rank ones in moe_ffn and lora_mix, against the specification."""

import pytest
import torch
from assertions import relative_error
from random_tensors import numbers
from torch.nn.functional import gelu, linear, silu

from fedmore.kernels.grouped_lowrank.factors import SignTensor
from fedmore.kernels.lora_mix import cpu as mix
from fedmore.kernels.lora_mix import reference as mix_reference
from fedmore.kernels.moe_ffn import cpu, reference

FULL = -1
T, D, H = 37, 20, 70
EXPERTS = {
    "full": [(FULL, FULL, FULL)],
    "two full": [(FULL, FULL, FULL)] * 2,
    "full and low": [(FULL, FULL, FULL), (3, 2, 4)],
    "low and full": [(3, 2, 4), (8, 8, 8), (FULL, FULL, FULL)],
    "only down": [(4, 4, FULL), (2, 3, 4)],
    "only gate": [(FULL, 2, 3), (5, 5, 5), (FULL, FULL, 1)],
}


def change(out, rank, inner):
    if rank == FULL:
        return (numbers(out, inner),)
    return numbers(out, rank), numbers(rank, inner)


def experts_of(name):
    return [(change(H, g, D), change(H, u, D), change(D, d, H)) for g, u, d in EXPERTS[name]]


def leaves(experts):
    return [factor for expert in experts for each in expert for factor in each]


def doubled(experts):
    """The same experts in float64 as leaves of their own."""
    return [
        tuple(tuple(f.detach().double().requires_grad_() for f in each) for each in expert)
        for expert in experts
    ]


def gates_of(count):
    gates = torch.rand(T, count) / count
    gates[torch.rand(T, count) < 0.5] = 0
    gates[0], gates[3::5] = 0.25, 0
    return gates


@pytest.mark.parametrize("act", [silu, gelu], ids=["loops", "torch"])
@pytest.mark.parametrize("name", EXPERTS)
def test_moe_ffn_equals_the_specification(name, act):
    """F + sum g_i (F_i - F) with every F_i made dense; gradients of all factors among it."""
    experts = experts_of(name)
    weights = [numbers(*shape) for shape in ((H, D), (H, D), (D, H))]
    base = tuple((lambda x, w=w: linear(x, w)) for w in weights)
    x, gates = torch.randn(T, D).requires_grad_(), gates_of(len(experts))
    for factor in leaves(experts):
        factor.requires_grad_()
    y = cpu.moe_ffn(x, gates, base, experts, act)
    double, x_64 = doubled(experts), x.detach().double().requires_grad_()
    wanted = reference.moe_ffn(x_64, gates.double(), [w.double() for w in weights], double, act)
    assert relative_error(y, wanted) < 2e-6
    push = torch.randn(T, D)
    y.backward(push)
    wanted.backward(push.double())
    assert relative_error(x.grad, x_64.grad) < 2e-6
    for found, exact in zip(leaves(experts), leaves(double), strict=True):
        assert relative_error(found.grad, exact.grad) < 5e-6
    frozen = cpu.prepare([tuple(tuple(f.detach() for f in c) for c in e) for e in experts])
    assert torch.equal(cpu.moe_ffn(x.detach(), gates, base, frozen, act), y.detach())


@pytest.mark.parametrize("name", ["full", "low and full", "only gate"])
def test_without_weight_the_result_is_the_base(name):
    weights = [numbers(*shape) for shape in ((H, D), (H, D), (D, H))]
    base = tuple((lambda x, w=w: linear(x, w)) for w in weights)
    x, experts = torch.randn(T, D), experts_of(name)
    y = cpu.moe_ffn(x, torch.zeros(T, len(experts)), base, experts, silu)
    gate, up, down = base
    assert torch.equal(y, down(silu(gate(x)) * up(x)))


def test_moe_ffn_takes_full_matrices_stored_as_signs_and_as_bfloat16():
    experts = experts_of("low and full")
    signs = [tuple(tuple(map(SignTensor.of, each)) for each in expert) for expert in experts]
    plain = [tuple(tuple(f.dense() for f in each) for each in expert) for expert in signs]
    weights = [numbers(*shape) for shape in ((H, D), (H, D), (D, H))]
    base = tuple((lambda x, w=w: linear(x, w.to(x.dtype))) for w in weights)
    x, gates = torch.randn(T, D), gates_of(3)
    y = cpu.moe_ffn(x, gates, base, cpu.prepare(plain), silu)
    assert torch.equal(cpu.moe_ffn(x, gates, base, cpu.prepare(signs), silu), y)
    half = [tuple(tuple(f.bfloat16() for f in each) for each in expert) for expert in plain]
    assert relative_error(cpu.moe_ffn(x.bfloat16(), gates, base, half, silu).float(), y) < 3e-2


@pytest.mark.parametrize("ranks", [(FULL,), (FULL, 3), (2, FULL, FULL, 5)])
def test_lora_mix_equals_the_specification(ranks):
    adapters = [change(H, rank, D) for rank in ranks]
    x, y = torch.randn(T, D), torch.randn(T, H)
    gates = gates_of(len(ranks))
    for factor in (f for each in adapters for f in each):
        factor.requires_grad_()
    found = mix.lora_mix(y, x, gates, adapters)
    double = [tuple(f.detach().double().requires_grad_() for f in each) for each in adapters]
    wanted = mix_reference.lora_mix(y.double(), x.double(), gates.double(), double)
    assert relative_error(found, wanted) < 2e-6
    found.sum().backward()
    wanted.sum().backward()
    for each, exact in zip(adapters, double, strict=True):
        for one, other in zip(each, exact, strict=True):
            assert relative_error(one.grad, other.grad) < 5e-6
    frozen = mix.prepare([tuple(f.detach() for f in each) for each in adapters])
    assert torch.equal(mix.lora_mix(y, x, gates, frozen), found.detach())
