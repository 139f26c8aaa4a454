"""sign1 against its specification.

`python tests/kernels/test_sign1.py` rewrites the golden file.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from fedmore.kernels.sign1 import cpu, reference

GOLDEN = Path(__file__).parent / "golden" / "sign1.json"

BLOCKS = st.sampled_from([1, 2, 3, 7, 8, 9, 16, 256])
FLOATS = st.floats(
    width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126
)
VALUES = st.lists(FLOATS | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38]), max_size=70)


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def same_bits(left, right):
    return left.shape == right.shape and torch.equal(
        left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8)
    )


@settings(deadline=None, max_examples=examples(100))
@given(VALUES, BLOCKS)
def test_equals_the_reference_bit_for_bit(values, block):
    x = tensor(values)
    (bits, scales), (bits_, scales_) = cpu.encode(x, block), reference.encode(x, block)
    assert same_bits(bits, bits_)
    assert same_bits(scales, scales_)
    decoded = cpu.decode(bits, scales, len(values), block)
    assert same_bits(decoded, reference.decode(bits, scales, len(values), block))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 257, 5000])
def test_equals_the_reference_for_many_numbers(count):
    x = torch.randn(count) * 10 ** torch.empty(count).uniform_(-20, 20)
    (bits, scales), (bits_, scales_) = cpu.encode(x, 256), reference.encode(x, 256)
    assert same_bits(bits, bits_)
    assert same_bits(scales, scales_)
    assert (bits.numel(), scales.numel()) == ((count + 7) // 8, -(-count // 256))


TINY = 3 * 2.0**-52  # lost when added to 8, but two of them are not


def test_the_order_of_summation_is_the_formats():
    """The sum is a tie between two scales; whether the tiny terms meet first decides it."""
    seen = set()
    for places in itertools.permutations(range(8), 4):
        numbers = [0.0] * 8
        for place, value in zip(places, [8 * (1 + 2**-8), 8 * 2**-24, TINY, TINY], strict=True):
            numbers[place] = value
        scale = cpu.encode(tensor(numbers), 8)[1]
        assert same_bits(scale, reference.encode(tensor(numbers), 8)[1])
        seen.add(scale.item())
    assert seen == {1.0, 1 + 2**-7}


@pytest.mark.parametrize("values", [[1.0, 1e16, 1.0, 1.0], [1.0, 1e16, 1.0], [2.0**53, 1, 1, 1, 1]])
def test_a_short_block_is_filled_with_zeros(values):
    v = [*values, *[0.0] * (5 - len(values))]
    by_halves = ((v[0] + v[3]) + v[2]) + (v[1] + v[4])
    assert reference.sum_by_halves(v) == by_halves
    mean = torch.tensor(by_halves / len(values)).to(torch.bfloat16)
    assert cpu.encode(tensor(values), 5)[1].item() == mean.item()


def test_zero_counts_as_positive_whatever_its_sign():
    bits, scales = cpu.encode(tensor([0.0, -0.0, -1.0]), 256)
    assert bits.tolist() == [0b011]
    assert scales.tolist() == [pytest.approx(1 / 3, rel=2**-8)]


def test_spare_bits_are_zero():
    assert cpu.encode(torch.ones(9), 256)[0].tolist() == [255, 1]


def test_the_scale_is_the_least_squares_one():
    x = torch.randn(256)
    bits, scales = cpu.encode(x, 256)
    signs = cpu.decode(bits, torch.ones(1, dtype=torch.bfloat16), 256, 256)
    best = float((signs.double() @ x.double()) / (signs.double() @ signs.double()))
    assert scales.item() == torch.tensor(best).to(torch.bfloat16).item()

    def loss(s):
        return float(((x - s * signs) ** 2).sum())

    step = 2**-7  # one bit of a bfloat16
    assert loss(best) <= min(loss(best * (1 + step)), loss(best * (1 - step)))


def test_what_is_one_bit_already_comes_back_as_it_was():
    x = torch.where(torch.randn(300) >= 0, 0.5, -0.5)
    assert torch.equal(cpu.decode(*cpu.encode(x, 256), 300, 256), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_would_poison_its_block_is_refused(bad):
    with pytest.raises(ValueError, match="NaN or Inf"):
        cpu.encode(tensor([1.0, bad, 2.0]), 256)


def test_a_mean_beyond_bfloat16_is_refused():
    with pytest.raises(ValueError, match="NaN or Inf"):
        cpu.encode(tensor([3.4028235e38]), 256)


@pytest.mark.parametrize(("bits", "scales"), [(1, 2), (3, 1), (2, 0)])
def test_a_wrong_number_of_bytes_is_refused(bits, scales):
    with pytest.raises(ValueError, match="do not fit 10 numbers"):
        cpu.decode(
            torch.zeros(bits, dtype=torch.uint8), torch.ones(scales, dtype=torch.bfloat16), 10, 256
        )


HALF = """
import os, sys
import torch
from fedmore.kernels.sign1 import cpu

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
numbers = torch.randn(1 << 20).mul_(2)
cpu.encode(numbers, 256)
before = threads()
for dtype in (torch.bfloat16, torch.float16):
    cpu.encode(numbers.to(dtype), 256)
sys.exit(threads() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted by /proc")
def test_half_precision_begins_no_more_threads_of_torch():
    """With a team of them for a thread of ours, all small operators are slow from then on."""
    assert subprocess.run([sys.executable, "-c", HALF], check=False).returncode == 0


def made():
    """Numbers without a generator or libm, and what they encode to."""
    cases = []
    for count, block in ((0, 256), (1, 256), (9, 4), (300, 256), (1000, 96)):
        values = [((i * 7919) % 1009 - 504) / 64 for i in range(count)]
        bits, scales = reference.encode(tensor(values), block)
        raw = scales.view(torch.uint8).numpy().tobytes().hex()
        cases.append(
            {"count": count, "block": block, "bits": bytes(bits.tolist()).hex(), "scales": raw}
        )
    return {"made_by": "python tests/kernels/test_sign1.py", "cases": cases}


def test_golden_bytes():
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == made()


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"])
def test_golden_bytes_on_the_cpu(case):
    values = [((i * 7919) % 1009 - 504) / 64 for i in range(case["count"])]
    bits, scales = cpu.encode(tensor(values), case["block"])
    assert bits.numpy().tobytes().hex() == case["bits"]
    assert scales.view(torch.uint8).numpy().tobytes().hex() == case["scales"]


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(made(), indent=1) + "\n", encoding="utf-8")
