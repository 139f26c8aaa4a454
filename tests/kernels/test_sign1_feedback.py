"""sign1's error feedback: nothing is lost, zeros and masks, threads."""

import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from fedmore.kernels.sign1 import cpu, masked

BLOCKS = st.sampled_from([1, 2, 3, 7, 8, 9, 16, 256])
CHANGES = st.lists(st.sampled_from([0.0, -0.0]) | st.floats(-1, 1, width=32), max_size=70)


@settings(deadline=None, max_examples=examples(50))
@given(CHANGES, st.randoms(use_true_random=False), BLOCKS)
def test_what_is_sent_and_what_is_owed_is_what_was_wanted(values, rng, block):
    change = torch.tensor(values)
    owed = torch.tensor([rng.choice([0.0, rng.uniform(-1, 1)]) for _ in values])
    bits, scales, residual = cpu.encode_with_residual(change, owed, block)
    sent = cpu.decode(bits, scales, len(values), block)
    torch.testing.assert_close(sent + residual, change + owed, rtol=0, atol=1e-6)


def test_a_block_of_zeros_sends_nothing_and_owes_nothing():
    change = torch.cat([torch.randn(32), torch.zeros(32)])
    bits, scales, residual = cpu.encode_with_residual(change, torch.zeros(64), 32)
    assert not cpu.decode(bits, scales, 64, 32)[32:].any()
    assert not residual[32:].any()


def test_a_zero_among_others_is_paid_back():
    """What the receiver holds stays within one scale of 0; without the debt it would drift."""
    residual, received, drifting = torch.zeros(32), torch.zeros(32), torch.zeros(32)
    zero = torch.arange(32) % 4 == 0
    for _ in range(20):
        change = torch.randn(32).masked_fill(zero, 0)
        bits, scales, residual = cpu.encode_with_residual(change, residual, 32)
        received += cpu.decode(bits, scales, 32, 32)
        drifting += cpu.decode(*cpu.encode(change, 32), 32, 32)
    assert float(received[zero].abs().max()) < 4
    assert float(drifting[zero].min()) > 8


@settings(deadline=None, max_examples=examples(50))
@given(CHANGES, st.randoms(use_true_random=False), BLOCKS)
def test_masked_numbers_neither_send_nor_owe(values, rng, block):
    mask = torch.tensor([rng.random() < 0.6 for _ in values], dtype=torch.bool)
    change = torch.tensor(values) * mask
    owed = torch.tensor([rng.uniform(-1, 1) for _ in values]) * mask
    bits, scales, residual = masked.encode_with_residual(cpu, change, owed, mask, block)
    assert bits.numel() == (int(mask.sum()) + 7) // 8
    sent = masked.decode(cpu, bits, scales, mask, block)
    assert not sent[~mask].any()
    assert not residual[~mask].any()
    torch.testing.assert_close(sent + residual, change + owed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("which", [0, 1])
def test_a_masked_number_that_is_not_zero_is_refused(which):
    parts = [torch.zeros(9), torch.zeros(9)]
    parts[which][3] = 1e-30
    with pytest.raises(ValueError, match="not zero"):
        masked.encode_with_residual(cpu, *parts, torch.arange(9) != 3, 8)


@pytest.mark.parametrize("block", [256, 96, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunks_and_threads_do_not_show_in_the_bits(block, dtype, threads, monkeypatch):
    count, weights = 5003, [0.1, 0.2, 0.3, 0.4, 0.5]
    change, owed = torch.randn(count).to(dtype), torch.randn(count)
    encoded = cpu.encode_with_residual(change, owed, block)
    total = cpu.weighted_sum([encoded[:2]] * 5, weights, count, block)
    monkeypatch.setattr(cpu, "CHUNK", 500)
    torch.set_num_threads(threads)
    assert all(map(torch.equal, cpu.encode_with_residual(change, owed, block), encoded))
    assert torch.equal(cpu.weighted_sum([encoded[:2]] * 5, weights, count, block), total)


def test_several_threads_may_encode_at_once():
    torch.set_num_threads(2)
    values = [torch.randn(3 * cpu.CHUNK + 8 * i) for i in range(6)]
    expected = [cpu.encode(v, 256) for v in values]
    seen = {}

    def work(i):
        torch.set_num_threads(2)
        seen[i] = [cpu.encode(values[i], 256) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, (bits, scales) in enumerate(expected):
        assert all(torch.equal(b, bits) and torch.equal(s, scales) for b, s in seen[i])


@pytest.mark.slow
def test_numba_comes_with_the_first_use():
    code = """if True:
        import sys, torch
        from fedmore.kernels.sign1 import cpu
        assert "numba" not in sys.modules
        cpu.encode(torch.ones(9), 8)
        assert "numba" in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)
