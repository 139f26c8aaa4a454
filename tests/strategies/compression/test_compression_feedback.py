"""Error feedback and mirrored state: nothing is lost between rounds, and both ends agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tensors import tensors_of
from thinning import examples

from fedmore.experts.errors import WireError
from fedmore.strategies.compression import error_feedback, mirrored
from fedmore.strategies.compression.codec import CODECS, codec_of, codecs_of, decode, encode
from fedmore.strategies.compression.error_feedback import GAIN, send
from fedmore.strategies.compression.policy import TAGS

SHAPES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 40)) | st.just((17, 31)), min_size=1, max_size=4
)
HALF_ULP = 2.0**-24


@pytest.fixture(params=TAGS)
def codec(request):
    return codec_of(request.param)


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=examples(20))
@given(SHAPES, st.integers(0, 1000), st.sampled_from([1e-38, 1e-6, 1.0, 1e4]))
def test_sent_and_residual_are_all_there_was(tag, shapes, seed, size):
    """To the rounding of two float32 sums, as the module says."""
    change, owed = tensors_of(shapes, seed, size), tensors_of(shapes, seed + 1, size)
    sent = send(codec_of(tag), change, owed)
    for c, r, d, left in zip(change, owed, sent.decoded, sent.residual, strict=True):
        wanted, arrived = c.double() + r.double(), d.double()
        off = (arrived + left.double() - wanted).abs()
        assert (off <= HALF_ULP * ((wanted - arrived).abs() + wanted.abs()) * (1 + 1e-6)).all()
    again = decode(codec_of(tag), sent.data, shapes)
    assert all(torch.equal(a, b) for a, b in zip(again, sent.decoded, strict=True))


def test_over_many_rounds_everything_arrives_but_the_last_residual(codec):
    shapes = [(8, 40), (3, 3)]
    owed = error_feedback.init([torch.empty(shape) for shape in shapes])
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
        assert left.norm() < 3 * all_of_it.norm() / 60**0.5  # of the size of one change


def test_a_constant_change_arrives_in_full_in_the_long_run():
    """Without the residual, sign1 would send the block's mean for every number, for ever."""
    change = [torch.linspace(-1, 2, 256).view(16, 16)]
    owed, arrived = [torch.zeros(16, 16)], torch.zeros(16, 16)
    errors = {}
    for number in range(1, 401):
        sent = send(CODECS["sign1"], change, owed)
        owed = sent.residual
        arrived += sent.decoded[0]
        errors[number] = float((arrived / number - change[0]).abs().max())
    assert errors[1] > 0.9
    assert errors[400] < errors[100] / 1.8 < 0.1


def test_the_gain_is_in_what_is_sent_and_only_sign1_has_one():
    assert set(GAIN) == {"sign1"}
    change = tensors_of([(16, 16)])
    for tag, gain in {**dict.fromkeys(TAGS, 1.0), **GAIN}.items():
        codec = CODECS[tag]
        sent = send(codec, change, error_feedback.init(change))
        assert sent.data == codec.encode_one(gain * change[0])


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=examples(12))
@given(SHAPES, st.integers(0, 1000), st.sampled_from([0.3, 1.0, 1.4]))
def test_bytes_and_residual_are_those_of_separate_steps(tag, shapes, seed, gain):
    """To the last bit, whether a codec's kernel does them in one pass or not."""
    change, owed = tensors_of(shapes, seed), tensors_of(shapes, seed + 1)
    sent = send(codec_of(tag), change, owed, {tag: gain})
    wanted = [c + r for c, r in zip(change, owed, strict=True)]
    assert sent.data == encode(codec_of(tag), [gain * w for w in wanted])
    assert all(
        torch.equal(left, w - d)
        for left, w, d in zip(sent.residual, wanted, sent.decoded, strict=True)
    )


@pytest.mark.parametrize("kind", ["even", "gaussian", "spikes"])
def test_the_gain_keeps_84_percent_of_what_a_send_settles(kind):
    """1 - (2 g - g^2) c of the energy is left: with g = 1.4 as with g = 1 less than all."""
    (x,) = tensors_of([(64, 64)])
    x = {"even": x.sign(), "gaussian": x, "spikes": x**9}[kind]
    left = {}
    for gain in (1.0, GAIN["sign1"]):
        sent = send(CODECS["sign1"], [x], [torch.zeros(64, 64)], {"sign1": gain})
        left[gain] = float(sent.residual[0].square().sum() / x.square().sum())
    assert 1 - left[GAIN["sign1"]] == pytest.approx(0.84 * (1 - left[1.0]), rel=0.02)


def test_send_leaves_its_arguments_alone():
    change, owed = tensors_of([(4, 4)]), tensors_of([(4, 4)], 1)
    before = [t.clone() for t in (*change, *owed)]
    send(CODECS["sign1"], change, owed)
    mirrored.send(CODECS["sign1"], change, owed)
    mirrored.receive(CODECS["fp32"], bytes(64), owed)
    assert all(torch.equal(a, b) for a, b in zip((*change, *owed), before, strict=True))


def test_a_codec_for_each_tensor():
    shapes = [(4, 64), (64, 4), (2, 3)]
    codecs = codecs_of("auto,factor_b=int8", shapes)
    assert [one.tag for one in codecs] == ["sign1", "int8", "fp32"]
    change = tensors_of(shapes)
    sent = send(codecs, change, error_feedback.init(change))
    assert len(sent.data) == (2 + 32) + (4 + 256) + 24
    assert not sent.residual[2].any()


# Mirrored state


@pytest.mark.parametrize("tag", TAGS)
@settings(deadline=None, max_examples=examples(12))
@given(SHAPES, st.integers(0, 1000))
def test_both_ends_stay_equal_bit_for_bit(tag, shapes, seed):
    here = mirrored.init(tensors_of(shapes, seed))
    there = mirrored.init(tensors_of(shapes, seed))
    for number in range(4):
        moved = mirrored.send(codec_of(tag), tensors_of(shapes, seed + number), here)
        here, there = moved.held, mirrored.receive(codec_of(tag), moved.data, there)
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_the_state_reaches_a_target_that_stands_still(codec):
    target = tensors_of([(32, 40)])
    held = mirrored.init([torch.zeros(32, 40)])
    for _ in range(12):
        held = mirrored.send(codec, target, held).held
    assert (held[0] - target[0]).norm() < 0.3 * target[0].norm()


def test_a_moving_target_is_followed_in_either_direction():
    """One link, two states: a client's factors upwards, the others' components downwards."""
    up, down = mirrored.init([torch.zeros(16, 64)]), mirrored.init([torch.zeros(16, 64)])
    client = server = torch.zeros(16, 64)
    at_client, at_server = down, up
    for number in range(30):
        step = 0.5**number
        client = client + step * tensors_of([(16, 64)], number)[0]
        server = server + step * tensors_of([(16, 64)], 100 + number)[0]
        upwards = mirrored.send(CODECS["sign1"], [client], up)
        downwards = mirrored.send(CODECS["sign1"], [server], down)
        up, at_server = upwards.held, mirrored.receive(CODECS["sign1"], upwards.data, at_server)
        down, at_client = (
            downwards.held,
            mirrored.receive(CODECS["sign1"], downwards.data, at_client),
        )
    assert (at_server[0] - client).norm() < 0.05 * client.norm()
    assert (at_client[0] - server).norm() < 0.05 * server.norm()


def test_what_sign1_has_made_is_passed_on_without_loss():
    held = passed = mirrored.init(tensors_of([(8, 96)], 50))
    for number in range(5):
        held = mirrored.send(CODECS["sign1"], tensors_of([(8, 96)], number), held).held
        passed = mirrored.send(CODECS["sign1"], held, passed, gains={}).held
        assert torch.allclose(passed[0], held[0], rtol=0, atol=1e-6)


def test_it_is_error_feedback_where_the_owner_trains_on_from_its_own(codec):
    """The residual is theta - h (EF21's difference)."""
    start = tensors_of([(9, 50)], 7)
    held, owed, own = mirrored.init(start), error_feedback.init(start), start
    component = start
    for number in range(6):
        change = tensors_of([(9, 50)], number, 0.1)
        own = [o + c for o, c in zip(own, change, strict=True)]
        held = mirrored.send(codec, own, held).held
        sent = send(codec, change, owed)
        owed = sent.residual
        component = [h + d for h, d in zip(component, sent.decoded, strict=True)]
    torch.testing.assert_close(component, held, rtol=0, atol=1e-5)
    torch.testing.assert_close(own[0] - held[0], owed[0], rtol=0, atol=1e-5)


def test_bytes_of_another_size_are_refused(codec):
    with pytest.raises(WireError, match="bytes where the shapes ask for"):
        mirrored.receive(codec, b"123", [torch.zeros(3, 4)])
