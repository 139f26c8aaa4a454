"""Every op's bench on tiny sizes: it runs, verifies, and sees an op that is a little wrong."""

from importlib import import_module

import pytest
import torch
from thinning import rarer_slow

from fedmore.kernels.benchmarking import comparison, roofline
from fedmore.kernels.dispatch import FORMS, choose
from fedmore.kernels.errors import KernelError
from fedmore.kernels.lora_mix import bench as lora_mix
from fedmore.kernels.lowbit import bench as bits
from fedmore.kernels.lowrank_sum import bench as delta
from fedmore.kernels.moe_ffn import bench as moe_ffn
from fedmore.kernels.sign1 import bench as sign1

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Small enough for a test; how fast an op is, is not for one."""
    monkeypatch.setattr(bits, "QUICK", (12, 10))
    monkeypatch.setattr(delta, "QUICK", (40, 4, 5, 3))
    monkeypatch.setattr(lora_mix, "QUICK", ((9, 2),))
    monkeypatch.setattr(lora_mix, "WIDTH", 24)
    monkeypatch.setattr(moe_ffn, "EXPERTS", 4)
    monkeypatch.setattr(moe_ffn, "QUICK", (moe_ffn.Size("tiny", 24, 40, 9, 1.35),))
    monkeypatch.setattr(sign1, "COUNT", dict.fromkeys(("cpu", "cuda"), (1 << 12, 1 << 12)))


def results(op, device=CPU):
    return list(import_module(f"fedmore.kernels.{op}.bench").results(True, device))


SLOW = pytest.param("moe_ffn", marks=pytest.mark.slow)


@pytest.mark.parametrize("op", [SLOW if op == "moe_ffn" else op for op in FORMS])
def test_every_bench_verifies_what_it_times(op):
    found = results(op)
    assert found
    assert all(r.verified and r.ours > 0 and r.name.startswith(op) for r in found)
    assert any(r.ratio for r in found)


@pytest.fixture
def on_gpu(monkeypatch):
    """All benches take the forms of GPUs, in interpreter mode where there is none."""
    for module in (bits, delta, lora_mix, moe_ffn, sign1):
        monkeypatch.setattr(module, "choose", lambda op, _: choose(op, "cuda"))
    for name in ("memory", "matrices"):
        monkeypatch.setattr(roofline, name, lambda *_: roofline.Peak("one", 1.0))


@pytest.mark.parametrize(
    "op",
    rarer_slow([op for op in FORMS if op != "moe_ffn"], {*FORMS} - {"lora_mix"}),
)
def test_every_bench_verifies_the_form_of_gpus(op, on_gpu, device):
    assert all(r.verified for r in results(op, device))


@pytest.mark.slow
def test_and_moe_ffn_in_the_type_that_gpus_are_measured_in(on_gpu, device):
    case = moe_ffn._Case(moe_ffn.QUICK[0], 1, {"device": device, "dtype": torch.bfloat16})
    rows = [*case.forward(), *case.backward()]
    assert len(rows) == 6
    assert all(r.verified for r in rows)


def enlarged(function, part=None):
    """The same op, whose result (or one part of it) is a hundredth too large."""

    def wrong(*args, **kwargs):
        found = function(*args, **kwargs)
        if part is None:
            return found * 1.01
        return tuple(x * 1.01 if i == part else x for i, x in enumerate(found))

    return wrong


def with_each_enlarged(function):
    """The same for pairs of factors."""
    return lambda *args: [(b, a * 1.01) for b, a in function(*args)]


def moved(function):
    """A bit of the code turned."""

    def wrong(*args, **kwargs):
        bits_, *rest = function(*args, **kwargs)
        bits_[1] ^= 4
        return bits_, *rest

    return wrong


def wrong_but_consistent(function):
    """Error feedback with scales that are too large, where what is owed fits them."""

    def wrong(change, residual, block, *, out):
        wanted = change + residual
        bits_, scales, _ = function(change, residual, block)
        scales = scales * 1.01
        sent = choose("sign1", CPU).decode(bits_, scales, wanted.numel(), block)
        return bits_, scales, out.copy_(wanted - sent)

    return wrong


WRONG = [
    ("lowbit", "quantise", enlarged, "lowbit quantise"),
    ("lowrank_sum", "aggregate", lambda f: enlarged(f, 0), "lowrank_sum aggregate"),
    ("lowrank_sum", "aggregate_layers", with_each_enlarged, "lowrank_sum aggregate of layers"),
    ("lora_mix", "lora_mix", enlarged, "lora_mix"),
    pytest.param("moe_ffn", "moe_ffn", enlarged, "moe_ffn", marks=pytest.mark.slow),
    ("sign1", "encode", lambda f: enlarged(f, 1), "sign1 encode"),
    ("sign1", "encode", moved, "sign1 encode"),
    ("sign1", "encode_with_residual", lambda f: enlarged(f, 1), "sign1 encode with residual"),
    ("sign1", "encode_with_residual", lambda f: enlarged(f, 2), "sign1 encode with residual"),
    ("sign1", "encode_with_residual", wrong_but_consistent, "sign1 encode with residual"),
    ("sign1", "encode_with_residual", moved, "sign1 encode with residual"),
    ("sign1", "weighted_sum", enlarged, "sign1 weighted sum of 16"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "function", "spoil", "row"), WRONG)
def test_an_op_that_is_a_little_wrong_is_not_timed(op, function, spoil, row, monkeypatch):
    form = choose(op, CPU)
    monkeypatch.setattr(form, function, spoil(getattr(form, function)))
    rows = [r for r in results(op) if r.name == row or row == op or r.name.startswith(f"{row},")]
    assert rows
    assert not any(r.verified or r.ratio for r in rows)


def test_the_goal_of_moe_ffn_is_on_the_experts_made_dense_alone():
    """Without the base, which has no weight where the experts' weights sum to 1."""
    by = {r.opponent_name: r.goal for r in results("moe_ffn") if "FlexOlmo" in r.opponent_name}
    assert by == {
        "FlexOlmo: the same 4 experts made dense": 3.3,
        "FlexOlmo: 4 dense experts and the base": None,
    }


def test_the_dense_sum_is_one_matrix(monkeypatch):
    """A stack of all products would make the opponent's memory look large."""
    made = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: made.append(a) or zeros(*a, **k))
    monkeypatch.setattr(torch, "stack", lambda *_: pytest.fail("a matrix for every term"))
    terms = [(torch.ones(3, 1), torch.ones(1, 4), 1.0)] * 8
    assert torch.equal(delta.reference.dense(terms), torch.full((3, 4), 8.0).double())
    assert made == [(3, 4)]


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernelError, match=r"--device cuda: torch finds no CUDA device"):
        comparison.place("cuda")
    assert comparison.place("cpu") == CPU


def test_a_gpu_is_waited_for_before_and_after_a_call(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append("wait"))
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: seen.append("clock") or 0.0)
    comparison.timed(lambda: seen.append("call"))
    assert seen == ["wait", "clock", "call", "wait", "clock"]


@pytest.fixture
def clock(monkeypatch):
    """Every call takes 2 ms."""
    monkeypatch.setattr(roofline, "timed", lambda call: call() or 2.0)


def test_the_part_of_a_peak_that_is_reached(clock):
    best = roofline.Peak("a copy", 1000.0)
    row = roofline.part_of(best, "op", "case", lambda: None, 1500.0, verify=lambda: True, repeats=3)
    assert (row.ours, row.opponent, row.ratio, row.goal) == (2.0, 1.5, 0.75, 0.7)
    row = roofline.part_of(best, "op", "case", lambda: 1 / 0, 1500.0, verify=lambda: False)
    assert (row.verified, row.ours, row.ratio, row.goal) == (False, None, None, 0.7)


def test_peaks_count_bytes_both_ways_and_two_operations_a_product(monkeypatch):
    monkeypatch.setattr(roofline, "median", lambda call, _: call() is None or 2.0)
    assert roofline.memory(CPU, 1000).per_ms == 4000
    assert roofline.matrices(CPU, torch.float32, 10).per_ms == 1000


def test_the_rows_of_a_gpu(monkeypatch):
    """Bytes and operations of tiny cases; a call takes 2 ms, the peak is 1 a millisecond."""
    monkeypatch.setattr(roofline, "median", lambda *_: 2.0)
    one = roofline.Peak("one", 1.0)
    case = sign1._Case(1 << 12, 1, CPU)
    feedback, added = case.parts_of(one)
    code = 4096 / 8 + 2 * 4096 / 256
    assert (feedback.opponent, feedback.ratio) == (12 * 4096 + code, (12 * 4096 + code) / 2)
    assert added.opponent == 4 * 4096 + 16 * code
    there = {"device": CPU, "dtype": torch.float32}
    row = moe_ffn._Case(moe_ffn.QUICK[0], 1, there).part_of(one)
    assert row.opponent == 2 * 9 * 3 * 24 * 40 + 2 * 9 * 4 * 3 * 16 * (24 + 40)
    assert all(r.verified for r in (feedback, added, row))
