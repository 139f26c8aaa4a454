"""Every form of moe_ffn against the specification in float64: values, gradients, shapes, NaN."""

from functools import partial

import pytest
import torch
from assertions import relative_error
from random_tensors import numbers
from thinning import rarer_slow
from torch.nn.functional import gelu, linear, silu

from fedmore.kernels.moe_ffn import cpu, reference, triton

FORMS = {"cpu": cpu, "triton": triton}
# Relative RMS error, values and gradients. Triton's interpreter cuts to bfloat16, without rounding.
ERROR = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 3e-2}
CASES = [
    # tokens, D, H, ranks (gate, up, down) of every expert
    (1, 8, 16, [(1, 1, 1)]),
    (5, 7, 13, [(1, 3, 2), (4, 1, 5)]),
    (37, 20, 70, [(1, 3, 2), (20, 4, 64), (33, 40, 5)]),
    (9, 24, 136, [(8, 8, 8), (16, 16, 16), (64, 2, 17)]),
    (11, 24, 136, [(0, 0, 3), (0, 2, 0), (5, 0, 4), (0, 0, 0), (3, 4, 5)]),
    (3, 7, 13, [(0, 0, 2)]),
]
LARGE = [(130, 40, 264, [(2, 64, 9), (16, 16, 16)] * 3), (6, 130, 260, [(130, 129, 140)])]


def layer(case, dtype=torch.float32, device="cpu"):
    _, d, h, ranks = case

    def pair(out, rank, inner):
        return [
            numbers(out, rank, dtype=dtype).to(device),
            numbers(rank, inner, dtype=dtype).to(device),
        ]

    weights = [numbers(*s, dtype=dtype).to(device) for s in ((h, d), (h, d), (d, h))]
    experts = [(pair(h, g, d), pair(h, u, d), pair(d, o, h)) for g, u, o in ranks]
    return weights, experts


def tokens(case, dtype=torch.float32, device="cpu"):
    """Tokens with none of the experts, one, some, all, two of equal weight."""
    count, d, _, ranks = case
    gates = torch.rand(count, len(ranks)) / len(ranks)
    gates[torch.rand(count, len(ranks)) < 0.5] = 0
    gates[0] = 0.25
    gates[3::5] = 0
    return torch.randn(count, d).to(device, dtype), gates.to(device)


def linears(weights):
    return tuple((lambda x, w=w: linear(x, w)) for w in weights)


def flat(experts):
    return [t for expert in experts for pair in expert for t in pair]


@pytest.fixture
def poisoned(monkeypatch):
    """New memory is full of NaN, so that what is not written shows."""

    def poison(make, *args, **kwargs):
        made = make(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, partial(poison, getattr(torch, name)))


def exact(weights, experts, x, gates):
    """The specification in float64 with leaves of its own: (output, leaves)."""
    double = [t.detach().cpu().double().requires_grad_() for t in (x, gates, *flat(experts))]
    x, gates, *factors = double
    pairs = list(zip(factors[::2], factors[1::2], strict=True))
    rebuilt = [tuple(pairs[i : i + 3]) for i in range(0, len(pairs), 3)]
    weights = tuple(w.cpu().double() for w in weights)
    return reference.moe_ffn(x, gates, weights, rebuilt, silu), double


def check(form, dtype, device, case):
    weights, experts = layer(case, dtype, device)
    x, gates = tokens(case, dtype, device)
    wanted, doubles = exact(weights, experts, x, gates)
    leaves = [x, gates, *flat(experts)]
    for leaf in leaves:
        leaf.requires_grad_()
    found = form.moe_ffn(x, gates, linears(weights), experts, silu)
    assert found.dtype == dtype
    assert relative_error(found, wanted) < ERROR[dtype]
    seed = torch.randn(found.shape)
    ours = torch.autograd.grad(found, leaves, seed.to(found), materialize_grads=True)
    theirs = list(torch.autograd.grad(wanted, doubles, seed.double(), materialize_grads=True))
    theirs[1] = theirs[1] * (doubles[1] != 0)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) < ERROR[dtype]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_on_the_cpu(case, poisoned):
    check(cpu, torch.float32, torch.device("cpu"), case)


@pytest.mark.parametrize("case", rarer_slow(CASES, [*CASES[:3], CASES[5]]), ids=str)
def test_values_and_gradients_by_triton(case, device, poisoned):
    check(triton, torch.float32, device, case)


@pytest.mark.parametrize("case", rarer_slow(CASES, CASES[1:2]), ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_values_and_gradients_in_half_precision(dtype, case, device, poisoned):
    check(triton, dtype, device, case)


@pytest.mark.parametrize("case", LARGE, ids=["chunks", "ranks above a tile"])
def test_values_and_gradients_on_the_cpu_of_more_than_a_tile(case, poisoned):
    check(cpu, torch.float32, "cpu", case)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_router_training_over_frozen_experts(form, device):
    """Experts that are prepared: the gates and x have gradients, the factors none."""
    device = torch.device("cpu") if form is cpu else device
    case = CASES[2]
    weights, experts = layer(case, device=device)
    x, gates = tokens(case, device=device)
    wanted, doubles = exact(weights, experts, x, gates)
    factors = flat(experts)
    for factor in factors:
        factor.requires_grad_()
    found = form.moe_ffn(
        x.requires_grad_(), gates.requires_grad_(), linears(weights), form.prepare(experts), silu
    )
    seed = torch.randn(found.shape)
    ours = torch.autograd.grad(found, [x, gates, *factors], seed.to(found), allow_unused=True)
    theirs = torch.autograd.grad(wanted, doubles[:2], seed.double())
    assert relative_error(ours[0], theirs[0]) < 2e-6
    assert relative_error(ours[1], theirs[1] * (doubles[1] != 0)) < 2e-6
    assert ours[2:] == (None,) * len(factors)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_nan_of_an_expert_reaches_only_its_tokens(form, device):
    """The formula excludes an expert from tokens of weight zero, whatever its numbers are."""
    device = torch.device("cpu") if form is cpu else device
    case = CASES[2]
    weights, experts = layer(case, device=device)
    x, gates = tokens(case, device=device)
    gates[:, 1] = 0
    clean = form.moe_ffn(x, gates, linears(weights), experts, silu)
    gates[4, 1] = 0.5
    for pair in experts[1]:
        for factor in pair:
            factor.fill_(float("nan"))
    found = form.moe_ffn(x, gates, linears(weights), experts, silu)
    others = [t for t in range(case[0]) if t != 4]
    assert torch.isnan(found[4]).all()
    assert torch.equal(found[others], clean[others])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_inputs_in_any_memory_order(form, device):
    device = torch.device("cpu") if form is cpu else device
    case = CASES[1]
    weights, experts = layer(case, device=device)
    x, gates = tokens(case, device=device)
    gates = gates[:1].expand(case[0], -1)
    turned = [tuple((b.T.contiguous().T, a.T.contiguous().T) for b, a in e) for e in experts]
    wanted = form.moe_ffn(x, gates.contiguous(), linears(weights), experts, silu)
    x, gates = x.T.contiguous().T, gates.clone().T.contiguous().T
    found = form.moe_ffn(x, gates, linears(weights), turned, silu)
    # A BLAS may add up in another order for another memory order.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("prepared", [True, False])
def test_no_expert_and_no_token(form, device, prepared):
    device = torch.device("cpu") if form is cpu else device
    weights, experts = layer(CASES[1], device=device)
    x, gates = tokens(CASES[1], device=device)
    gate, up, down = base = linears(weights)
    given = form.prepare(experts) if prepared else experts
    assert torch.equal(form.moe_ffn(x, gates * 0, base, given, silu), down(silu(gate(x)) * up(x)))
    assert form.moe_ffn(x[:0], gates[:0], base, given, silu).shape == (0, CASES[1][1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_on_the_cpu(dtype):
    weights, experts = layer(CASES[2], dtype)
    x, gates = tokens(CASES[2], dtype)
    wanted, _ = exact(weights, experts, x, gates)
    found = cpu.moe_ffn(x, gates.to(dtype), linears(weights), experts, silu)
    assert found.dtype == dtype
    assert relative_error(found, wanted) < {torch.float64: 1e-7, torch.bfloat16: 2e-2}[dtype]


def test_triton_refuses_other_types(device):
    weights, experts = layer(CASES[1], torch.float64, device)
    x, gates = tokens(CASES[1], torch.float64, device)
    with pytest.raises(ValueError, match=r"float32, bfloat16 or float16.*not torch.float64"):
        triton.moe_ffn(x, gates, linears(weights), experts, silu)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_other_activations(form, device):
    device = torch.device("cpu") if form is cpu else device
    weights, experts = layer(CASES[2], device=device)
    x, gates = tokens(CASES[2], device=device)
    found = form.moe_ffn(x, gates, linears(weights), experts, gelu)
    wanted = reference.moe_ffn(
        x.cpu().double(), gates.cpu().double(), tuple(w.cpu().double() for w in weights),
        [[[f.cpu().double() for f in pair] for pair in e] for e in experts], gelu,
    )  # fmt: skip
    assert relative_error(found, wanted) < 2e-6
