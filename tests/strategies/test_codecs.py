"""What every codec must do; a new one is a row in `CODECS`."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmore.experts.errors import WireError
from fedmore.strategies.compression.codec import CODECS, Cast, codec_of, decode, encode
from fedmore.strategies.compression.error_feedback import send

SHAPES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 40)) | st.just((17, 31)), min_size=1, max_size=4
)
TAGS = sorted(CODECS)
BITS = {"fp32": 32, "bf16": 16, "sign1": 1 + 16 / 256}


def tensors_of(shapes, seed=0, size=1.0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g) * size for shape in shapes]


@pytest.fixture(params=TAGS)
def codec(request):
    return codec_of(request.param)


def test_every_codec_is_in_this_file():
    assert set(BITS) == set(CODECS)
    assert all(codec.tag == tag for tag, codec in CODECS.items())


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=40)
@given(SHAPES, st.integers(0, 1000))
def test_what_comes_back_has_the_shapes_and_is_stable(tag, shapes, seed):
    """Decoding gives float32 of the same shapes; encoding that again gives the same numbers."""
    codec = codec_of(tag)
    data = encode(codec, tensors_of(shapes, seed))
    assert len(data) == sum(codec.size(math.prod(shape)) for shape in shapes)
    once = decode(codec, data, shapes)
    assert [t.shape for t in once] == [torch.Size(shape) for shape in shapes]
    assert {t.dtype for t in once} == {torch.float32}
    again = decode(codec, encode(codec, once), shapes)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 85), (16, 16), (1, 257), (512, 576)])
def test_bytes_are_what_the_layout_says(codec, rows, columns):
    count = rows * columns
    exact = {
        "fp32": 4 * count,
        "bf16": 2 * count,
        "sign1": 2 * math.ceil(count / 256) + math.ceil(count / 8),
    }
    data = encode(codec, [torch.ones(rows, columns)])
    assert len(data) == codec.size(count) == exact[codec.tag]
    if count > 100_000:
        assert len(data) * 8 / count == pytest.approx(BITS[codec.tag], rel=1e-3)


def test_sign1_is_28_times_smaller_than_fp32():
    large = [torch.randn(576, 32), torch.randn(32, 1536)]
    sizes = {tag: len(encode(codec_of(tag), large)) for tag in TAGS}
    assert sizes["fp32"] / sizes["sign1"] >= 28
    assert sizes["fp32"] == 2 * sizes["bf16"]


def test_no_tensors_and_empty_tensors_are_no_bytes(codec):
    assert encode(codec, []) == b""
    assert decode(codec, b"", []) == []
    shapes = [(0, 5), (5, 0)]
    assert encode(codec, [torch.zeros(shape) for shape in shapes]) == b""
    assert [tuple(t.shape) for t in decode(codec, b"", shapes)] == shapes


def test_an_empty_tensor_between_others(codec):
    """An aggregate may have rank 0 in one matrix and not in the next."""
    shapes = [(2, 3), (0, 7), (5, 1)]
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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_at_both_ends(codec, bad):
    with pytest.raises(ValueError, match="NaN"):
        encode(codec, [torch.tensor([[1.0, bad]])])
    with pytest.raises(WireError, match="NaN or Inf"):
        decode(codec, b"\xff" * codec.size(8), [(8, 1)])


def test_what_rounds_to_infinity_is_refused():
    largest = torch.full((1, 4), torch.finfo(torch.float32).max)
    assert encode(CODECS["fp32"], [largest])
    for tag in ("bf16", "sign1"):
        with pytest.raises(ValueError, match="NaN"):
            encode(CODECS[tag], [largest])
    with pytest.raises(ValueError, match="NaN"):
        encode(CODECS["fp32"], [torch.full((1, 1), 1e300, dtype=torch.float64)])


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=64), SHAPES)
def test_any_bytes_decode_or_raise_the_wire_error(tag, data, shapes):
    codec = codec_of(tag)
    try:
        found = decode(codec, data, shapes)
    except WireError:
        return
    assert [tuple(t.shape) for t in found] == shapes
    assert all(torch.isfinite(t).all() for t in found)


def test_an_unknown_tag_is_refused():
    with pytest.raises(WireError, match="unknown codec 'zip'; known are fp32, bf16, sign1"):
        codec_of("zip")


def test_the_layout_does_not_depend_on_memory_order(codec):
    x = torch.randn(7, 12)
    assert encode(codec, [x.T.contiguous().T]) == encode(codec, [x])
    assert encode(codec, [x.double()]) == encode(codec, [x])


def test_fp32_is_exact_and_little_endian():
    x = torch.tensor([[1.0, -2.5]])
    assert encode(CODECS["fp32"], [x]).hex() == "0000803f000020c0"
    assert encode(CODECS["bf16"], [x]).hex() == "803f20c0"
    assert encode(CODECS["sign1"], [x]).hex() == "e03f" + "01"


def test_bf16_rounds_to_nearest():
    x = torch.randn(100)
    (found,) = decode(CODECS["bf16"], encode(CODECS["bf16"], [x]), [(100,)])
    assert ((found - x).abs() <= x.abs() * 2**-8).all()


# Error feedback


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=40)
@given(SHAPES, st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e4]))
def test_sent_and_residual_are_all_there_was(tag, shapes, seed, size):
    change, owed = tensors_of(shapes, seed, size), tensors_of(shapes, seed + 1, size)
    sent = send(codec_of(tag), change, owed)
    for c, r, d, left in zip(change, owed, sent.decoded, sent.residual, strict=True):
        torch.testing.assert_close(d + left, c + r, rtol=3e-7, atol=1e-6 * size)
    again = decode(codec_of(tag), sent.data, shapes)
    assert all(torch.equal(a, b) for a, b in zip(again, sent.decoded, strict=True))


def test_over_many_rounds_everything_arrives_but_the_last_residual(codec):
    shapes = [(8, 40), (3, 3)]
    owed = [torch.zeros(shape) for shape in shapes]
    arrived = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    wanted = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    for number in range(60):
        change = tensors_of(shapes, number)
        sent = send(codec, change, owed)
        owed = sent.residual
        arrived = [total + part for total, part in zip(arrived, sent.decoded, strict=True)]
        wanted = [total + part for total, part in zip(wanted, change, strict=True)]
    for there, left, all_of_it in zip(arrived, owed, wanted, strict=True):
        torch.testing.assert_close(there + left.double(), all_of_it, rtol=0, atol=1e-4)


def test_a_constant_change_arrives_in_full_in_the_long_run():
    """Without the residual, sign1 would send the block's mean for every number, for ever."""
    change = [torch.linspace(-1, 2, 256).view(16, 16)]
    owed, arrived = [torch.zeros(16, 16)], torch.zeros(16, 16)
    errors = {}
    for number in range(1, 1001):
        sent = send(CODECS["sign1"], change, owed)
        owed = sent.residual
        arrived += sent.decoded[0]
        errors[number] = float((arrived / number - change[0]).abs().max())
    assert errors[1] > 1
    assert errors[1000] < errors[250] / 1.8 < 0.1


def test_send_leaves_its_arguments_alone():
    change, owed = tensors_of([(4, 4)]), tensors_of([(4, 4)], 1)
    before = [t.clone() for t in (*change, *owed)]
    send(CODECS["sign1"], change, owed)
    assert all(torch.equal(a, b) for a, b in zip((*change, *owed), before, strict=True))


def test_a_cast_is_a_value():
    assert Cast("bf16", torch.bfloat16) == CODECS["bf16"]
