"""What every codec must do; a new one is a row in `CODECS`."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tensors import tensors_of
from thinning import examples

from fedmore.experts.errors import WireError
from fedmore.strategies.compression.cast import Cast
from fedmore.strategies.compression.codec import CODECS, codec_of, decode, encode
from fedmore.strategies.compression.error_feedback import send
from fedmore.strategies.compression.policy import TAGS, WEIGHT_TAGS

SHAPES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 40)) | st.just((17, 31)), min_size=1, max_size=4
)
BITS = {
    "fp32": 32,
    "bf16": 16,
    "int8": 8 + 32 / 256,
    "nf4": 4 + 32 / 64,
    "sign1": 1 + 16 / 256,
    "bitdelta": 1,
    "bits1": 1,
    "bits2": 2,
    "bits4": 4,
}
ERROR = {
    "fp32": 0, "bf16": 2**-8, "int8": 0.02, "nf4": 0.11, "sign1": 0.62, "bitdelta": 0.62,
    "bits1": 0.62, "bits2": 0.37, "bits4": 0.13,
}  # fmt: skip
"""Relative root mean square of what a codec loses of Gaussian numbers, at most."""
FARTHEST = {
    "fp32": 0,
    "bf16": 2**-8,  # half a unit in the last of 8 binary places
    "int8": 0.0071,  # of the map's largest steps half
    "nf4": 0.152,
    "sign1": 0.254,  # the mean of 1, 1, 0.5 and 0.5, and its rounding to bfloat16
    "bitdelta": 0.2501,
    "bits1": 0.272,  # 0.798 deviations of 0.913; one of two bits is 1.51, of four 0.942
    "bits2": 0.379,
    "bits4": 0.140,
}
"""How far from 1, -1, 0.5 and -0.5 a codec's numbers are, at most; zeros would be 1 away."""
NAN = {
    torch.float32: [0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF8000, 0x7FC00000, 0x7F800001, 0x7F800000],
    torch.bfloat16: [0x7FFF, 0xFFFF, 0x7FC0, 0x7F80],
    torch.float16: [0x7FFF, 0xFFFF, 0x7FFC, 0x7C01, 0x7C00],
}
"""Bits of NaN and Inf, those among them that rounding by adding half a unit turns into -0."""


@pytest.fixture(params=TAGS)
def codec(request):
    return codec_of(request.param)


def test_every_codec_is_in_this_file_and_in_the_policies():
    assert list(BITS) == list(ERROR) == list(FARTHEST) == list(CODECS) == list(TAGS)
    assert all(codec.tag == tag for tag, codec in CODECS.items())


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=examples(20))
@given(SHAPES, st.integers(0, 1000))
def test_what_comes_back_has_the_shapes_and_is_stable(tag, shapes, seed):
    """Decoding gives float32 of the same shapes; encoding that again gives the same numbers."""
    codec = codec_of(tag)
    data = encode(codec, tensors_of(shapes, seed))
    assert len(data) == sum(codec.size(math.prod(shape)) for shape in shapes)
    once = decode(codec, data, shapes)
    assert [t.shape for t in once] == [torch.Size(shape) for shape in shapes]
    assert {t.dtype for t in once} == {torch.float32}
    # The map of int8 has no -1, so a block whose largest number is below 0 shrinks; what stands
    # for weights of few bits has less spread than those had.
    if tag != "int8" and tag not in WEIGHT_TAGS.values():
        again = decode(codec, encode(codec, once), shapes)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_what_is_lost_is_what_the_codec_is_known_to_lose(codec):
    (x,) = tensors_of([(300, 301)])
    (found,) = decode(codec, encode(codec, [x]), [(300, 301)])
    error = float((found - x).norm() / x.norm())
    assert 0.2 * ERROR[codec.tag] <= error <= ERROR[codec.tag]


def test_zeros_stay_zeros(codec):
    (found,) = decode(codec, encode(codec, [torch.zeros(30, 10)]), [(30, 10)])
    assert not found.any()


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1.0, 1e30, 3e38])
def test_no_scale_of_numbers_breaks_a_codec(codec, size):
    far, of_weights = FARTHEST[codec.tag], codec.tag in WEIGHT_TAGS.values()
    if of_weights and size < 1:  # standardised by the deviation and 1e-5: only signs are left
        far = 1
    if of_weights and size > 1e38:  # a code may be 2.7 deviations
        size = 1e38
    x = torch.tensor([[1.0, -1.0, 0.5, -0.5]]) * size
    (found,) = decode(codec, encode(codec, [x]), [(1, 4)])
    assert (found - x).abs().max() <= far * x.abs().max()


@pytest.mark.parametrize("size", [1e-44, 1e-40])
def test_of_numbers_too_small_for_float32_none_gets_larger_or_turns(codec, size):
    """There a scale, or one over it, has no bits left: zeros are what one may expect."""
    x = torch.tensor([[1.0, -1.0, 0.5, -0.5]]) * size
    (found,) = decode(codec, encode(codec, [x]), [(1, 4)])
    assert found.abs().max() <= x.abs().max()
    assert (found * x.sign() >= 0).all()


def test_the_same_tensors_are_the_same_bytes(codec):
    tensors = tensors_of([(70, 90), (5, 3)])
    assert len({encode(codec, tensors) for _ in range(3)}) == 1


def test_no_tensors_and_empty_tensors_are_no_bytes(codec):
    assert encode(codec, []) == b""
    assert decode(codec, b"", []) == []
    shapes = [(0, 5), (5, 0)]
    assert encode(codec, [torch.zeros(shape) for shape in shapes]) == b""
    assert [tuple(t.shape) for t in decode(codec, b"", shapes)] == shapes


def test_an_empty_tensor_between_others_and_one_without_dimensions(codec):
    """An aggregate may have rank 0 in one matrix and not in the next."""
    shapes = [(2, 3), (0, 7), (5, 1), ()]
    data = encode(codec, tensors_of(shapes))
    assert [tuple(t.shape) for t in decode(codec, data, shapes)] == shapes


@pytest.mark.parametrize("change", [-1, 1, 100])
def test_a_wrong_length_is_refused(codec, change):
    data = encode(codec, tensors_of([(4, 5)]))
    wrong = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(WireError, match=rf"{codec.tag}: {len(wrong)} bytes where"):
        decode(codec, wrong, [(4, 5)])
    with pytest.raises(WireError, match="0 bytes"):
        decode(codec, b"", [(4, 5)])
    with pytest.raises(WireError, match="1 bytes where the shapes ask for 0"):
        decode(codec, b"x", [])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_at_both_ends(codec, bad):
    with pytest.raises(ValueError, match="NaN"):
        encode(codec, [torch.tensor([[1.0, bad]])])
    with pytest.raises(WireError, match="NaN or Inf"):
        decode(codec, b"\xff" * codec.size(8), [(8, 1)])


@pytest.mark.parametrize(("dtype", "bits"), [(d, b) for d, all_ in NAN.items() for b in all_])
def test_no_bits_of_nan_or_inf_come_into_what_is_sent_or_owed(codec, dtype, bits):
    unsigned = torch.uint32 if dtype == torch.float32 else torch.uint16
    good, bad = torch.ones(16), torch.ones(16, dtype=dtype)
    bad[3:4] = torch.tensor([bits], dtype=unsigned).view(dtype)
    for change, owed in ((bad, good), (good, bad.float())):
        with pytest.raises(ValueError, match="cannot encode NaN"):
            send(codec, [change], [owed])


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=examples(30))
@given(st.binary(max_size=64), SHAPES)
def test_any_bytes_decode_or_raise_the_wire_error(tag, data, shapes):
    codec = codec_of(tag)
    try:
        found = decode(codec, data, shapes)
    except WireError:
        return
    assert [tuple(t.shape) for t in found] == shapes
    assert all(torch.isfinite(t).all() for t in found)


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=examples(50))
@given(st.data(), st.integers(1, 600))
def test_any_bytes_of_the_right_length_too(tag, data, count):
    codec = codec_of(tag)
    seed = data.draw(st.integers(0, 2**32))
    size = codec.size(count)
    made = torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(seed))
    try:
        (found,) = decode(codec, bytes(made.tolist()), [(count,)])
    except WireError:
        return
    assert found.shape == (count,)
    assert torch.isfinite(found).all()


def test_an_unknown_tag_is_refused():
    with pytest.raises(WireError, match="unknown codec 'zip'; known are fp32, bf16, int8"):
        codec_of("zip")


def test_the_layout_does_not_depend_on_memory_order(codec):
    x = torch.randn(7, 12)
    assert encode(codec, [x.T.contiguous().T]) == encode(codec, [x])
    assert encode(codec, [x.double()]) == encode(codec, [x])
    assert encode(codec, [x.clone().requires_grad_()]) == encode(codec, [x])


def test_a_cast_is_a_value():
    assert Cast("bf16", torch.bfloat16) == CODECS["bf16"]
