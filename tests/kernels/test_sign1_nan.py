"""No bits of NaN or Inf pass sign1, in any form, type or place: rounding must not hide them."""

import pytest
import torch

from fedmore.kernels.sign1 import cpu, reference, triton

FORMS = {"reference": reference, "cpu": cpu, "triton": triton}
# The first of each, rounded to a bfloat16 scale by adding half a unit, carry over into -0.
PATTERNS = {
    torch.float32: [0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF8000, 0x7FC00000, 0x7F800001, 0x7F800000],
    torch.bfloat16: [0x7FFF, 0xFFFF, 0x7FC0, 0x7F81, 0x7F80, 0xFF80],
    torch.float16: [0x7FFF, 0xFFFF, 0x7FFC, 0x7E00, 0x7C01, 0x7C00, 0xFC00],
}
CASES = [
    pytest.param(dtype, pattern, id=f"{str(dtype)[6:]}-{pattern:X}")
    for dtype, patterns in PATTERNS.items()
    for pattern in patterns
]


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture
def place(form, device):
    return device if form is triton else torch.device("cpu")


def spoilt(dtype, pattern):
    """Sixteen numbers, one of which has these bits."""
    unsigned = torch.uint32 if dtype == torch.float32 else torch.uint16
    x = torch.ones(16, dtype=dtype)
    x[3:4] = torch.tensor([pattern], dtype=unsigned).view(dtype)
    assert not bool(torch.isfinite(x[3]))
    return x


# Triton's interpreter is numpy, which warns of Inf - Inf and of signalling NaN.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize(("dtype", "pattern"), CASES)
def test_what_is_not_finite_is_refused_by_every_form(form, place, dtype, pattern):
    bad, good = spoilt(dtype, pattern).to(place), torch.ones(16, device=place)
    with pytest.raises(ValueError, match="NaN or Inf"):
        form.encode(bad, 8)
    for change, residual in ((bad, good), (good, bad.float())):
        with pytest.raises(ValueError, match="NaN or Inf"):
            form.encode_with_residual(change, residual, 8)


def test_the_forms_agree_that_a_mean_beyond_bfloat16_is_none(form, place):
    with pytest.raises(ValueError, match="NaN or Inf"):
        form.encode(torch.full((8,), torch.finfo(torch.float32).max, device=place), 8)
