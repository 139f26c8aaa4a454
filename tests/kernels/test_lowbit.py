"""bits against its specification in float64, gradients too; codebooks, the stored form."""

import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from thinning import rarer_slow

from fedmore.kernels.lowbit import cpu, reference, triton
from fedmore.kernels.lowbit.codebooks import UPPER, borders, codes, spread

FORMS = {"cpu": cpu, "triton": triton}
SHAPES = [(), (1,), (2,), (7,), (1, 9), (33, 5), (64, 48), (3, 5, 7), (0, 4)]
# Relative RMS error: arithmetic in float32, the result rounded to the dtype.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
NORMAL = NormalDist()


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture
def device(form, device):
    return device if form is triton else torch.device("cpu")


def error(left, right):
    left, right = left.detach().cpu().double(), right.detach().double()
    return float((left - right).norm() / right.norm().clamp_min(1e-30))


@pytest.mark.parametrize(("book", "bits"), UPPER)
def test_codes_are_the_fixed_point_that_their_name_says(book, bits):
    levels, ends = codes(bits, book), [-math.inf, *borders(bits, book), math.inf]
    assert len(levels) == 2**bits
    for code, (low, high) in zip(levels, pairwise(ends), strict=True):
        mass = NORMAL.cdf(high) - NORMAL.cdf(low)
        median = NORMAL.inv_cdf(NORMAL.cdf(low) + mass / 2)
        mean = (NORMAL.pdf(low) - NORMAL.pdf(high)) / mass
        assert code == pytest.approx(median if book == "median" else mean, abs=1e-7)


def test_the_errors_of_one_bit_are_those_of_the_literature():
    """Gaussian mean squared error .3787 (median) and .3634 (least squares)."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    for book, expected in (("median", 0.3787), ("squares", 0.3634)):
        assert float((cpu.quantise(x, 1, book) - x).square().mean()) == pytest.approx(
            expected, abs=0.003
        )


@pytest.mark.parametrize("dtype", rarer_slow(TOLERANCE, (torch.float32, torch.bfloat16)))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("book", "bits"), UPPER)
def test_value_and_gradient_equal_the_reference(form, device, shape, bits, book, dtype):
    w = (torch.randn(shape) * 0.03 + 0.01).to(dtype)
    g = torch.randn(shape).to(dtype)
    exact = w.double().requires_grad_()
    value = reference.quantise(exact, bits, book)
    (expected,) = torch.autograd.grad(value, exact, g.double())

    ours = w.detach().to(device).requires_grad_()
    result = form.quantise(ours, bits, book)
    (grad,) = torch.autograd.grad(result, ours, g.to(device))
    assert result.shape == w.shape
    assert result.dtype == grad.dtype == dtype
    assert error(result, value) < TOLERANCE[dtype]
    assert error(grad, expected) < 4 * TOLERANCE[dtype]


def test_a_number_on_a_border_goes_to_the_upper_cell(form, device):
    w = torch.tensor([-1.0, 0.0, 1.0], device=device)
    assert torch.equal(form.quantise(w, 1)[1:], form.quantise(w, 1)[2:].expand(2))


def test_the_gradient_is_not_the_plain_straight_through_one(form, device):
    w = torch.randn(40, 30, device=device).requires_grad_()
    g = torch.randn(40, 30, device=device)
    (grad,) = torch.autograd.grad(form.quantise(w, 1), w, g + w.detach())
    assert error(grad, (g + w).cpu()) > 1e-3


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_weight_without_spread_stays_and_learns(form, device, bits):
    w = torch.zeros(6, 5, device=device).requires_grad_()
    g = torch.randn(6, 5, device=device)
    value = form.quantise(w, bits)
    (grad,) = torch.autograd.grad(value, w, g)
    assert not value.any()
    assert torch.equal(grad, g)
    exact = torch.zeros(6, 5).double().requires_grad_()
    (expected,) = torch.autograd.grad(reference.quantise(exact, bits), exact, g.cpu().double())
    assert torch.equal(expected, g.cpu().double())


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_stored_form_is_the_weight_in_use(form, device, bits, shape):
    w = torch.randn(shape, device=device)
    coded = form.encode(w, bits)
    assert coded.packed.dtype == torch.uint8
    assert coded.packed.numel() == math.ceil(w.numel() * bits / 8)
    assert torch.equal(form.decode(coded), form.quantise(w, bits))


@pytest.mark.parametrize(("book", "bits"), UPPER)
def test_latent_numbers_give_the_same_weights_again(form, device, bits, book):
    w = torch.randn(300, 40, device=device) * 0.03 + 0.01
    value = form.quantise(w, bits, book)
    again = form.quantise(form.latent(value, bits, book), bits, book)
    assert error(again, value) < 0.01
    if bits < 4:  # without the spread they would shrink
        assert error(form.quantise(value, bits, book), value) > 3 * error(again, value)
    assert torch.equal(again > again.mean(), value > value.mean())


def test_latent_numbers_of_no_spread_are_as_they_are(form, device):
    for shape in [(), (1,), (0, 3), (4, 5)]:
        zeros = torch.zeros(shape, device=device)
        assert torch.equal(form.latent(zeros, 1), zeros)


@pytest.mark.parametrize(("book", "bits"), UPPER)
def test_the_spread_of_codes(book, bits):
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    assert float(cpu.quantise(x, bits, book).std()) == pytest.approx(spread(bits, book), rel=0.01)


def test_codes_lie_in_bytes_from_the_lowest_bits_on(form, device):
    """Of two bits the codes 0, 1, 2, 3 and, in the next byte, 2 with zeros behind it."""
    w = torch.tensor([-2.0, -0.125, 0.125, 2.0, 0.0], device=device)
    assert form.encode(w, 2).packed.tolist() == [0b11100100, 0b00000010]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_no_code_stands_for_is_refused(form, device, bad):
    with pytest.raises(ValueError, match="NaN or Inf"):
        form.encode(torch.tensor([1.0, bad], device=device), 1)


def test_what_is_not_there_is_refused(form, device):
    with pytest.raises(ValueError, match="of 3 bits"):
        form.quantise(torch.ones(2, device=device), 3)
    coded = form.encode(torch.randn(9, device=device), 1)
    wrong = type(coded)(coded.packed[:1], coded.mean, coded.std, coded.shape, 1, "median")
    with pytest.raises(ValueError, match="1 bytes"):
        form.decode(wrong)
