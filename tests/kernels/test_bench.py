"""How kernels are measured: never before they are verified."""

import pytest
import torch

from fedmore.kernels.benchmarking import comparison


def never():
    raise AssertionError("timed although not verified")


def test_what_is_not_equal_is_not_timed():
    result = comparison.compare(
        "op", "case", never, never, opponent_name="x", verify=lambda: False, goal=2
    )
    assert not result.verified
    assert result.ours is result.opponent is result.ratio is None
    assert result.goal == 2


def test_runs_alternate_and_a_slow_opponent_runs_less_often():
    runs = []
    comparison.in_turn(lambda: runs.append("o"), lambda: runs.append("x"), 3, 3)
    assert "".join(runs) == "ox" + "oxoxox"
    runs.clear()
    comparison.in_turn(lambda: runs.append("o"), lambda: runs.append("x"), 3, 1)
    assert "".join(runs) == "o" + "oxoo"


def test_the_ratio_says_how_many_times_better_ours_is(monkeypatch):
    clock = iter([0, 1, 0, 4, 0, 3, 0, 5, 0, 2, 0, 9])  # ours 1, 3, 2; the opponent 4, 5, 9
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: next(clock))
    result = comparison.compare(
        "op", "case", int, int, opponent_name="x", verify=lambda: True, repeats=3
    )
    assert (result.ours, result.opponent) == (2000, 5000)
    assert result.ratio == 2.5
    assert result.goal is None


@pytest.mark.slow
@pytest.mark.skipif(comparison.peak_memory(int) is None, reason="only Linux tells it")
def test_peak_memory_is_what_a_call_holds_at_its_highest():
    mib = 1 << 20

    def call():
        first = torch.ones(48 * mib, dtype=torch.uint8)
        del first
        torch.ones(16 * mib, dtype=torch.uint8)

    assert comparison.peak_memory(call) == pytest.approx(48, abs=6)
    assert comparison.peak_memory(call) == pytest.approx(48, abs=6)
    assert comparison.peak_memory(int) == pytest.approx(1, abs=3)


def test_memory_is_compared_only_where_it_is_known():
    assert comparison.compare_memory("op", "case", None, 3.0, "x", 2) is None
    result = comparison.compare_memory("op", "case", 2.0, 30.0, "x", 20)
    assert (result.ratio, result.unit) == (15, "MiB")
