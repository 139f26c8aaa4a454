"""moe_ffn's exactness on the CPU, prepared experts, and experts kept as sign1."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples, rarer_slow
from torch.nn.functional import linear, silu

from fedmore.kernels.moe_ffn import cpu, reference, triton

D, H = 24, 136
RANKS = [(1, 3, 2), (16, 16, 16), (64, 2, 17)]
FORMS = {"cpu": cpu, "triton": triton}


def pair(out, rank, inner):
    return torch.randn(out, rank) * max(1, rank) ** -0.5, torch.randn(rank, inner) * inner**-0.5


def expert(ranks):
    g, u, o = ranks
    return pair(H, g, D), pair(H, u, D), pair(D, o, H)


@pytest.fixture
def base():
    """Linear layers whose results do not depend on the other rows, as BLAS's may."""
    shapes = ((H, D), (H, D), (D, H))
    weights = [torch.randn(*shape) * shape[1] ** -0.5 for shape in shapes]
    return tuple((lambda x, w=w: (x[:, None, :] * w.to(x.device)).sum(2)) for w in weights)


@pytest.fixture(params=rarer_slow(FORMS, ("cpu",)))
def form(request):
    return FORMS[request.param]


@pytest.fixture
def place(form, device):
    return torch.device("cpu") if form is cpu else device


def some(count, experts=3, place="cpu"):
    gates = torch.rand(count, experts) / experts
    gates[torch.rand(count, experts) < 0.4] = 0
    return torch.randn(count, D).to(place), gates.to(place)


def experts_at(place):
    return [tuple(tuple(f.to(place) for f in p) for p in expert(r)) for r in RANKS]


def run(base, experts, x, gates, seed):
    """Output, and the gradients of x and gates."""
    x, gates = x.clone().requires_grad_(), gates.clone().requires_grad_()
    y = cpu.moe_ffn(x, gates, base, experts, silu)
    return y.detach(), *torch.autograd.grad(y, (x, gates), seed)


def test_a_token_does_not_see_its_batch_bit_for_bit(base):
    experts, (x, gates) = [expert(r) for r in RANKS], some(141)
    seed = torch.randn(141, D)
    together = run(base, experts, x, gates, seed)
    for t in (0, 7, 127, 128, 140):
        alone = run(base, experts, x[t : t + 1], gates[t : t + 1], seed[t : t + 1])
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[t])


def test_an_expert_of_weight_zero_changes_no_bit(base):
    experts, (x, gates) = [expert(r) for r in RANKS], some(50)
    seed = torch.randn(50, D)
    wanted = run(base, experts, x, gates, seed)
    more = [expert((5, 6, 7)), *experts, expert((9, 9, 9))]
    wider = torch.cat([torch.zeros(50, 1), gates, torch.zeros(50, 1)], 1)
    found = run(base, more, x, wider, seed)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[2][:, 1:4], wanted[2])


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads_gives_the_same_bits(base, threads):
    experts, (x, gates) = [expert(r) for r in RANKS], some(700)
    seed = torch.randn(700, D)
    one = run(base, experts, x, gates, seed)
    torch.set_num_threads(threads)
    assert all(map(torch.equal, run(base, experts, x, gates, seed), one))


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(*[st.integers(0, 64)] * 3), min_size=1, max_size=5),
       st.floats(0, 1), st.integers(0, 999))  # fmt: skip
def test_any_ranks_and_number_of_active_experts(count, ranks, share, seed):
    torch.manual_seed(seed)
    experts, x = [expert(r) for r in ranks], torch.randn(count, D)
    gates = torch.rand(count, len(ranks)) * (torch.rand(count, len(ranks)) < share)
    weights = [torch.randn(*s) * 0.2 for s in ((H, D), (H, D), (D, H))]
    base = tuple((lambda x, w=w: linear(x, w)) for w in weights)
    found = cpu.moe_ffn(x, gates, base, experts, silu)
    wanted = reference.moe_ffn(x, gates, tuple(weights), experts, silu)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_prepared_experts_are_the_experts(base, form, place):
    experts, (x, gates) = experts_at(place), some(20, place=place)
    prepared = form.prepare(experts)
    for _ in range(2):
        live = form.moe_ffn(x, gates, base, experts, silu)
        assert torch.equal(form.moe_ffn(x, gates, base, prepared, silu), live)
    experts[1][2][0].mul_(2)
    changed = form.moe_ffn(x, gates, base, prepared, silu)
    assert torch.equal(changed, form.moe_ffn(x, gates, base, experts, silu))
    assert not torch.equal(changed, live)


def test_a_copy_of_prepared_experts_stands_alone(base):
    """Packings are known by address: a copy must not use the original's memory."""
    experts, (x, gates) = [expert(r) for r in RANKS], some(20)
    prepared = cpu.prepare(experts)
    wanted = cpu.moe_ffn(x, gates, base, prepared, silu)
    copied = copy.deepcopy(prepared)
    for factor in (f for e in experts for p in e for f in p):
        factor.fill_(float("nan"))
    assert torch.isnan(cpu.moe_ffn(x, gates, base, prepared, silu)).any()
    assert torch.equal(cpu.moe_ffn(x, gates, base, copied, silu), wanted)


def test_a_factor_written_to_before_the_backward_pass_is_an_error(base):
    experts, (x, gates) = [expert(RANKS[0])], some(4, 1)
    factor = experts[0][0][0].requires_grad_()
    y = cpu.moe_ffn(x, gates, base, experts, silu)
    with torch.no_grad():
        factor.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def as_signs(form, expert):
    """As a mixture keeps it: B by columns."""
    return tuple((form.SignTensor.of(b, by_columns=True), form.SignTensor.of(a)) for b, a in expert)


def test_experts_kept_as_sign1(base, form, place):
    experts, (x, gates) = experts_at(place), some(20, place=place)
    kept = [as_signs(form, expert) for expert in experts]
    decoded = [tuple(tuple(f.dense() for f in p) for p in e) for e in kept]
    wanted = form.moe_ffn(x, gates, base, decoded, silu)
    mixed = [kept[0], decoded[1], kept[2]]
    for given_experts in (kept, form.prepare(kept), mixed, form.prepare(mixed)):
        assert torch.equal(form.moe_ffn(x, gates, base, given_experts, silu), wanted)
    gates.requires_grad_()
    form.moe_ffn(x, gates, base, kept, silu).sum().backward()
    assert gates.grad.abs().sum() > 0


def test_sign1_and_training_do_not_mix(base):
    experts, (x, gates) = [expert(r) for r in RANKS[:2]], some(20, 2)
    kept = as_signs(cpu, experts[0])
    for p in experts[1]:
        for factor in p:
            factor.requires_grad_()
    with pytest.raises(ValueError, match="stored as sign1"):
        cpu.moe_ffn(x, gates, base, [kept, experts[1]], silu)
