"""Every form of sign1 against the specification: encode, decode, error feedback, sums."""

import pytest
import torch
from thinning import rarer_slow

from fedmore.kernels.sign1 import cpu, reference, triton

FORMS = {"cpu": cpu, "triton": triton}
COUNTS = [0, 1, 7, 8, 9, 255, 256, 257, 1000]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Relative RMS error of a float32 sum of K float32 terms against float64.
SUM_ERROR = 2**-23


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture
def device(form, device):
    return device if form is triton else torch.device("cpu")


def same_bits(left, right):
    left, right = left.cpu().contiguous(), right.cpu().contiguous()
    return left.dtype == right.dtype and torch.equal(
        left.view(torch.uint8), right.view(torch.uint8)
    )


def numbers(count, dtype=torch.float32, seed=0):
    """Of many sizes, exact zeros of both signs and subnormal numbers among them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=g) * 10 ** torch.empty(count).uniform_(-4, 3, generator=g)
    x[::11], x[::13], x[::17] = 0.0, -0.0, 1e-42
    return x.to(dtype)


@pytest.fixture
def poisoned(monkeypatch):
    """New memory is full of NaN and of ones, so that what is not written shows."""
    empty = torch.empty

    def poison(*args, **kwargs):
        made = empty(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 0xAB)

    monkeypatch.setattr(torch, "empty", poison)


@pytest.mark.parametrize("dtype", rarer_slow(DTYPES, DTYPES[:2]))
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("block", [8, 32, 256])
def test_equals_the_reference_bit_for_bit(form, device, count, dtype, block, poisoned):
    x, owed = numbers(count, dtype), numbers(count, seed=1)
    expected = reference.encode(x, block)
    encoded = form.encode(x.to(device), block)
    assert all(map(same_bits, encoded, expected))
    decoded = form.decode(*encoded, count, block)
    assert same_bits(decoded, reference.decode(*expected, count, block))
    fused = form.encode_with_residual(x.to(device), owed.to(device), block)
    assert all(map(same_bits, fused, reference.encode_with_residual(x, owed, block)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gain", [0.3, 1.4])
def test_a_gain_is_in_what_is_sent_and_not_in_what_is_owed(form, device, dtype, gain, poisoned):
    """Enlarged in float32, as the product of a float32 tensor is."""
    x, owed = numbers(1003, dtype), numbers(1003, seed=1)
    fused = form.encode_with_residual(x.to(device), owed.to(device), 256, gain=gain)
    assert all(map(same_bits, fused, reference.encode_with_residual(x, owed, 256, gain=gain)))
    wanted = x.float() + owed
    bits, scales = reference.encode(gain * wanted, 256)
    assert all(map(same_bits, fused[:2], (bits, scales)))
    sent = reference.decode(bits, scales, 1003, 256)
    assert same_bits(fused[2], wanted - sent)


def test_a_mean_between_two_scales_goes_to_the_even_one(form, device):
    x = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], device=device)
    scales = form.encode(x.repeat_interleave(8), 8)[1]
    assert scales.tolist() == [1, 1 + 2**-6, 1 + 2**-7]


def test_a_scale_of_zero_keeps_the_sign(form, device):
    encoded = torch.tensor([0b101], dtype=torch.uint8), torch.zeros(1, dtype=torch.bfloat16)
    decoded = form.decode(*(part.to(device) for part in encoded), 8, 8)
    assert same_bits(decoded, reference.decode(*encoded, 8, 8))


@pytest.mark.parametrize("shape", [(), (3, 5, 7), (0, 4), (2, 300)])
def test_any_shape(form, device, shape):
    x = torch.randn(shape, device=device)
    bits, scales, residual = form.encode_with_residual(x, torch.zeros_like(x), 32)
    assert residual.shape == x.shape
    sent = form.decode(bits, scales, x.numel(), 32).view(shape)
    assert torch.equal(sent + residual, x) or torch.allclose(sent + residual, x, atol=1e-6)


def test_what_is_not_contiguous_is_taken_in_its_order(form, device):
    x = torch.randn(40, 24).to(device).T
    assert all(map(same_bits, form.encode(x, 32), reference.encode(x.reshape(-1).cpu(), 32)))


def test_the_residual_may_be_updated_in_place(form, device):
    change, residual = torch.randn(700, device=device), torch.randn(700, device=device)
    expected = form.encode_with_residual(change, residual, 256)
    result = form.encode_with_residual(change, residual, 256, out=residual)
    assert result[2] is residual
    assert all(map(same_bits, result, expected))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 300, 511])
def test_what_would_poison_its_block_is_refused(form, device, bad, place):
    x = torch.zeros(512, device=device)
    x[place] = bad
    with pytest.raises(ValueError, match="NaN or Inf"):
        form.encode(x, 256)


def test_a_mean_beyond_bfloat16_is_refused(form, device):
    x = torch.full((8,), torch.finfo(torch.float32).max, device=device)
    with pytest.raises(ValueError, match="NaN or Inf"):
        form.encode(x, 8)


@pytest.mark.parametrize("updates", [0, 1, 3, 4, 5, 16])
@pytest.mark.parametrize("count", [0, 1, 31, 256, 1003])
def test_a_sum_of_updates_equals_the_sum_of_what_they_decode_to(
    form, device, updates, count, poisoned
):
    weights = [0.3 - 0.1 * k for k in range(updates)]
    encoded = [reference.encode(numbers(count, seed=k), 32) for k in range(updates)]
    there = [(bits.to(device), scales.to(device)) for bits, scales in encoded]
    total = form.weighted_sum(there, weights, count, 32).cpu()
    expected = reference.weighted_sum(encoded, weights, count, 32)
    assert total.dtype == torch.float32
    assert total.shape == (count,)
    error = (total.double() - expected).norm() / expected.norm().clamp_min(1e-30)
    assert float(error) <= max(1, updates) * SUM_ERROR


def test_a_sum_into_given_memory(form, device):
    encoded = [tuple(part.to(device) for part in reference.encode(numbers(77), 8))]
    out = torch.full((77,), float("nan"), device=device)
    assert form.weighted_sum(encoded, [2.0], 77, 8, out=out) is out
    assert same_bits(out, form.decode(*encoded[0], 77, 8) * 2)
    with pytest.raises(ValueError, match="of 77 numbers"):
        form.weighted_sum(encoded, [2.0], 77, 8, out=out[:76])


@pytest.mark.parametrize(("bits", "scales"), [(1, 2), (3, 2), (2, 0), (2, 3)])
def test_sizes_that_do_not_fit_are_refused_before_anything_is_read(form, device, bits, scales):
    bad = torch.zeros(bits, dtype=torch.uint8), torch.ones(scales, dtype=torch.bfloat16)
    bad = tuple(part.to(device) for part in bad)
    with pytest.raises(ValueError, match="fit 10 numbers"):
        form.decode(*bad, 10, 8)
    good = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="fit 10 numbers"):
        form.decode(*(part.to(device) for part in good), 10, 8)


def test_arguments_that_do_not_fit_each_other_are_refused(form, device):
    x = torch.randn(10, device=device)
    with pytest.raises(ValueError, match="a residual of 9"):
        form.encode_with_residual(x, x[:9], 8)
    with pytest.raises(ValueError, match="float32"):
        form.encode_with_residual(x, x, 8, out=x.double())
    with pytest.raises(ValueError, match="2 weights for 1"):
        form.weighted_sum([form.encode(x, 8)], [1.0, 2.0], 10, 8)
    with pytest.raises(ValueError, match="block"):
        form.encode(x, 0)


@pytest.mark.parametrize("block", [4, 12, 96])
def test_the_gpu_form_says_which_blocks_it_takes(block):
    with pytest.raises(ValueError, match="blocks of 8, 16, 32"):
        triton.encode(torch.randn(10), block)
