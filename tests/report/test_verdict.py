"""The verdict is computed: every goal is met and missed by changing the numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmore.sims.report.study import Study, read_study
from fedmore.sims.report.verdict import Verdict, judge

Make = Callable[..., Path]
Read = Callable[[Path], Study]
LEARNED, KEPT, UNHARMED, SMALL, EXACT = range(5)


def around(mean: float, half: float = 0.02) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def scores(base: float, own: float | None, mixture: float, half: float = 0.02) -> dict[str, Any]:
    trained = None if own is None else around(own, half)
    return {"base": around(base, half), "own_expert": trained, "mixture": around(mixture, half)}


def test_a_good_run_meets_every_goal(make: Make, study_of: Read) -> None:
    assert [v.word for v in judge(study_of(make()))] == ["met"] * 5


@pytest.fixture
def verdict(make: Make, study_of: Read) -> Callable[..., tuple[Verdict, ...]]:
    return lambda **changes: judge(study_of(make(**changes)))


@pytest.mark.parametrize(
    ("own", "half", "paired", "word"),
    [
        (1.00, 0.02, None, "met"),
        (1.08, 0.02, None, "undecided"),  # the intervals overlap
        (1.20, 0.02, None, "not met"),
        (1.08, 0.02, around(-0.02, 0.01), "met"),  # apart document by document
        (1.08, 0.02, around(-0.02, 0.03), "undecided"),
        (1.12, 0.02, around(0.02, 0.01), "not met"),
        (1.00, 0.02, {"mean": -0.1, "ci95": None}, "undecided"),  # of one document
    ],
)
def test_clearly_below_the_base(
    verdict: Callable[..., tuple[Verdict, ...]],
    own: float,
    half: float,
    paired: dict[str, Any] | None,
    word: str,
) -> None:
    changes = {"legal": {"own_expert": paired, "mixture": paired}} if paired else {}
    found = verdict(bits_per_byte={"legal": scores(1.1, own, own, half)}, paired=changes)
    assert found[LEARNED].word == word


@pytest.mark.parametrize(
    ("own", "mixture", "half", "word"),
    [
        (1.0, 1.015, 0.04, "met"),
        (1.0, 1.018, 0.07, "undecided"),  # 82 % [75 %, 89 %] is not known to be 80 %
        (1.0, 1.022, 0.07, "undecided"),
        (1.0, 1.030, 0.07, "not met"),
        (1.0, 1.015, None, "undecided"),
        (1.2, 1.0, None, "not met"),
    ],
)
def test_keeps_four_fifths_of_the_gain(
    verdict: Callable[..., tuple[Verdict, ...]],
    own: float,
    mixture: float,
    half: float | None,
    word: str,
) -> None:
    kept = around((1.1 - mixture) / 0.1, half) if half else None
    change = around(mixture - 1.1)
    paired = {"legal": {"own_expert": change, "mixture": change, "gain_kept": kept}}
    found = verdict(bits_per_byte={"legal": scores(1.1, own, mixture)}, paired=paired)
    assert found[KEPT].word == word


def test_the_worst_text_decides(verdict: Callable[..., tuple[Verdict, ...]]) -> None:
    bits = {"legal": scores(1.1, 1.0, 1.0), "gl": scores(2.0, 1.99, 1.99)}
    assert verdict(bits_per_byte=bits, paired={})[LEARNED].word == "undecided"


@pytest.mark.parametrize(
    ("mixture", "paired", "word"),
    [
        (0.90, None, "met"),
        (0.99, None, "undecided"),
        (1.10, None, "not met"),
        (1.004, around(0.004, 0.0005), "met"),  # worse for sure, but by less than the margin
        (0.99, around(-0.01, 0.02), "undecided"),
        (1.006, around(0.006, 0.0005), "not met"),
    ],
)
def test_not_worse_where_nobody_trained(
    verdict: Callable[..., tuple[Verdict, ...]],
    mixture: float,
    paired: dict[str, Any] | None,
    word: str,
) -> None:
    changes = {"python": {"own_expert": None, "mixture": paired}} if paired else {}
    found = verdict(bits_per_byte={"python": scores(1.0, None, mixture)}, paired=changes)
    assert found[UNHARMED].word == word
    assert found[LEARNED].word == "not measured"


def test_traffic_that_nobody_counted_is_not_a_success(
    verdict: Callable[..., tuple[Verdict, ...]],
) -> None:
    assert verdict(counted=False)[SMALL].word == "not measured"


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_payload_is_not_what_a_socket_counts(make: Make, engine: str) -> None:
    study = read_study(make(), scenario="quickstart", engine=engine, seed=1, wall_s=1.0)
    found = judge(study)[SMALL]
    assert study.report.traffic.counted == "payload"
    assert found.word == "not measured"
    assert "payload" in found.measured


@pytest.mark.parametrize(("factor", "word"), [(1, "met"), (2, "not met")])
def test_times_smaller(make: Make, study_of: Read, factor: int, word: str) -> None:
    from fedmore.coordinator.store.registry import Registry

    directory = make()
    with Registry.open(directory) as registry:
        for member in registry.members():
            registry.add_traffic(member.name, (factor - 1) * member.bytes_up, 0)
    assert judge(study_of(directory))[SMALL].word == word


@pytest.mark.parametrize(
    ("error", "word"), [(9e-6, "met"), (2e-5, "not met"), (None, "not measured")]
)
def test_rounding_level(make: Make, study_of: Read, error: float | None, word: str) -> None:
    from fedmore.coordinator.store.registry import Registry

    directory = make()
    with Registry.open(directory) as registry:
        for row in registry.rounds():
            metrics = {"clients": {}, "experts": {"legal": {"aggregation_error": error}}}
            registry.add_round(stage=row.stage, kind=row.kind, round=row.round, metrics=metrics)
    assert judge(study_of(directory))[EXACT].word == word
