"""Every form of lora_mix against the specification in float64, and its exactness on the CPU."""

import copy

import pytest
import torch
from assertions import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tensors import numbers
from thinning import examples, rarer_slow

from fedmore.kernels.lora_mix import cpu, reference, triton

FORMS = {"cpu": cpu, "triton": triton}
# Relative RMS error, values and gradients. Triton's interpreter cuts to bfloat16, without rounding.
ERROR = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
FORMS_AND_TYPES = [
    pytest.param(cpu, torch.float32, id="cpu-float32"),
    *(pytest.param(triton, dtype, id=f"triton-{str(dtype)[6:]}") for dtype in ERROR),
]
CASES = [
    # tokens, D, O, ranks
    (1, 8, 16, (1,)),
    (5, 7, 13, (3, 2)),
    (37, 20, 70, (1, 3, 20, 64)),
    (140, 136, 72, (8, 16, 5)),
    (37, 20, 70, (0, 3, 0, 17)),
    (5, 7, 13, (0,)),
]


def some(case, dtype=torch.float32, device="cpu"):
    """y, x, gates, adapters."""
    count, d, o, ranks = case
    gates = torch.rand(count, len(ranks))
    gates[torch.rand(count, len(ranks)) < 0.5] = 0
    gates[0] = 0.25
    gates[3::5] = 0
    adapters = [
        (numbers(o, r, dtype=dtype).to(device), numbers(r, d, dtype=dtype).to(device))
        for r in ranks
    ]
    y, x = torch.randn(count, o), torch.randn(count, d)
    return y.to(device, dtype), x.to(device, dtype), gates.to(device), adapters


@pytest.fixture
def poisoned(monkeypatch):
    """New memory is full of NaN, so that what is not written shows."""
    empty = torch.empty

    def poison(*args, **kwargs):
        made = empty(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poison)


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture
def place(form, device):
    return torch.device("cpu") if form is cpu else device


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_TYPES[:2])
def test_values_and_gradients(form, dtype, case, device, poisoned):
    check(form, dtype, "cpu" if form is cpu else device, case)


@pytest.mark.parametrize("case", rarer_slow(CASES, CASES[1:2]), ids=str)
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_TYPES[2:])
def test_values_and_gradients_in_half_precision(form, dtype, case, device, poisoned):
    check(form, dtype, device, case)


def check(form, dtype, device, case):
    y, x, gates, adapters = some(case, dtype, device)
    leaves = [y, x, gates, *(f for pair in adapters for f in pair)]
    doubles = [leaf.detach().cpu().double().requires_grad_() for leaf in leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    pairs = list(zip(doubles[3::2], doubles[4::2], strict=True))
    wanted = reference.lora_mix(*doubles[:3], pairs)
    found = form.lora_mix(y, x, gates, adapters)
    assert found.dtype == dtype
    assert relative_error(found, wanted) < ERROR[dtype]
    seed = torch.randn(found.shape)
    ours = torch.autograd.grad(found, leaves, seed.to(found))
    theirs = list(torch.autograd.grad(wanted, doubles, seed.double()))
    theirs[2] = theirs[2] * (doubles[2] != 0)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) < ERROR[dtype]


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 300),
       st.lists(st.integers(0, 140), min_size=1, max_size=4), st.integers(0, 999))  # fmt: skip
def test_any_shape(count, d, o, ranks, seed):
    torch.manual_seed(seed)
    y, x, gates, adapters = some((count, d, o, ranks))
    wanted = reference.lora_mix(y, x, gates, adapters)
    assert relative_error(cpu.lora_mix(y, x, gates, adapters), wanted) < 1e-5


def test_nan_of_an_adapter_reaches_only_its_tokens(form, place):
    y, x, gates, adapters = some(CASES[2], device=place)
    gates[:, 1] = 0
    clean = form.lora_mix(y, x, gates, adapters)
    gates[4, 1] = 0.5
    adapters[1][0].fill_(float("nan"))
    found = form.lora_mix(y, x, gates, adapters)
    others = [t for t in range(len(y)) if t != 4]
    assert torch.isnan(found[4]).all()
    assert torch.equal(found[others], clean[others])


def test_nothing_but_the_token_and_its_adapters_matters_bit_for_bit():
    y, x, gates, adapters = some(CASES[3])
    together = cpu.lora_mix(y, x, gates, adapters)
    for t in (0, 7, 127, 128, 139):
        row = slice(t, t + 1)
        own = gates[t].nonzero().squeeze(1).tolist()
        used = [adapters[i] for i in own]
        alone = cpu.lora_mix(y[row], x[row], gates[row][:, own], used) if own else y[row]
        assert torch.equal(alone[0], together[t])


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads_gives_the_same_bits(threads):
    y, x, gates, adapters = some((700, 136, 72, (8, 16, 5)))
    one = cpu.lora_mix(y, x, gates, adapters)
    torch.set_num_threads(threads)
    assert torch.equal(cpu.lora_mix(y, x, gates, adapters), one)


def test_inputs_in_any_memory_order(form, place):
    y, x, gates, adapters = some(CASES[2], device=place)
    gates = gates[:1].expand(len(y), -1)
    turned = [(b.T.contiguous().T, a.T.contiguous().T) for b, a in adapters]
    wanted = form.lora_mix(y, x, gates.contiguous(), adapters)
    y, x, gates = (t.T.contiguous().T for t in (y, x, gates))
    assert torch.equal(form.lora_mix(y, x, gates, turned), wanted)


def test_prepared_adapters_are_the_adapters(form, place):
    y, x, gates, adapters = some(CASES[2], device=place)
    prepared = form.prepare(adapters)
    wanted = form.lora_mix(y, x, gates, adapters)
    assert torch.equal(form.lora_mix(y, x, gates, prepared), wanted)
    copied = copy.deepcopy(prepared)
    adapters[2][1].mul_(2)
    changed = form.lora_mix(y, x, gates, prepared)
    assert torch.equal(changed, form.lora_mix(y, x, gates, adapters))
    assert not torch.equal(changed, wanted)
    assert torch.equal(form.lora_mix(y, x, gates, copied), wanted)


def test_adapters_kept_as_sign1(form, place):
    y, x, gates, adapters = some(CASES[2], device=place)
    signs = [(form.SignTensor.of(b, by_columns=True), form.SignTensor.of(a)) for b, a in adapters]
    wanted = form.lora_mix(y, x, gates, [(b.dense(), a.dense()) for b, a in signs])
    assert torch.equal(form.lora_mix(y, x, gates, signs), wanted)
    assert torch.equal(form.lora_mix(y, x, gates, form.prepare(signs)), wanted)


def test_no_adapter_is_y_itself(form, place):
    y, x, gates, adapters = some(CASES[2], device=place)
    before = y.clone()
    assert torch.equal(form.lora_mix(y, x, gates * 0, adapters), before)
    form.lora_mix(y, x, gates, adapters)
    assert torch.equal(y, before)


def test_triton_refuses_other_types(device):
    y, x, gates, adapters = some(CASES[1], torch.float64, device)
    with pytest.raises(ValueError, match=r"float32, bfloat16 or float16.*not torch.float64"):
        triton.lora_mix(y, x, gates, adapters)
