"""The verdict is computed: every goal is met and missed by changing the numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmore.sims.report.study import Study
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
    ("own", "half", "paired", "passed"),
    [
        (1.00, 0.02, None, True),
        (1.08, 0.02, None, False),  # the intervals overlap
        (1.08, 0.02, around(-0.02, 0.01), True),  # but not document by document
        (1.08, 0.02, around(-0.02, 0.03), False),
    ],
)
def test_clearly_below_the_base(
    verdict: Callable[..., tuple[Verdict, ...]],
    own: float,
    half: float,
    paired: dict[str, Any] | None,
    passed: bool,
) -> None:
    changes = {"legal": {"own_expert": paired, "mixture": paired}} if paired else {}
    found = verdict(bits_per_byte={"legal": scores(1.1, own, own, half)}, paired=changes)
    assert found[LEARNED].passed is passed


@pytest.mark.parametrize(
    ("own", "mixture", "passed"),
    [(1.0, 1.019, True), (1.0, 1.021, False), (1.2, 1.0, False)],
)
def test_keeps_four_fifths_of_the_gain(
    verdict: Callable[..., tuple[Verdict, ...]], own: float, mixture: float, passed: bool
) -> None:
    found = verdict(bits_per_byte={"legal": scores(1.1, own, mixture)})
    assert found[KEPT].passed is passed


@pytest.mark.parametrize(
    ("mixture", "paired", "passed"),
    [
        (0.99, None, True),
        (1.004, None, True),
        (1.006, None, False),  # beyond the margin
        (1.004, around(0.004, 0.001), False),  # small, but sure
        (1.004, around(0.004, 0.010), True),
    ],
)
def test_not_worse_where_nobody_trained(
    verdict: Callable[..., tuple[Verdict, ...]],
    mixture: float,
    paired: dict[str, Any] | None,
    passed: bool,
) -> None:
    changes = {"python": {"own_expert": None, "mixture": paired}} if paired else {}
    found = verdict(bits_per_byte={"python": scores(1.0, None, mixture)}, paired=changes)
    assert found[UNHARMED].passed is passed
    assert found[LEARNED].passed is None


def test_traffic_that_nobody_counted_is_not_a_success(
    verdict: Callable[..., tuple[Verdict, ...]],
) -> None:
    assert verdict(counted=False)[SMALL].word == "not measured"


@pytest.mark.parametrize(("factor", "passed"), [(1, True), (2, False)])
def test_times_smaller(make: Make, study_of: Read, factor: int, passed: bool) -> None:
    from fedmore.coordinator.registry import Registry

    directory = make()
    with Registry.open(directory) as registry:
        for member in registry.members():
            registry.add_traffic(member.name, (factor - 1) * member.bytes_up, 0)
    assert judge(study_of(directory))[SMALL].passed is passed


@pytest.mark.parametrize(("error", "passed"), [(9e-6, True), (2e-5, False), (None, None)])
def test_rounding_level(
    make: Make, study_of: Read, error: float | None, passed: bool | None
) -> None:
    from fedmore.coordinator.registry import Registry

    directory = make()
    with Registry.open(directory) as registry:
        for row in registry.rounds():
            metrics = {"clients": {}, "experts": {"legal": {"aggregation_error": error}}}
            registry.add_round(stage=row.stage, kind=row.kind, round=row.round, metrics=metrics)
    assert judge(study_of(directory))[EXACT].passed is passed
