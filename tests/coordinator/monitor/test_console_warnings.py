"""What a round's metrics warn of is in its line: a rule that has nobody to cut off."""

from fedmore.coordinator.monitor.event_lines import line
from fedmore.strategies.events import RoundFinished, StageStarted

WARNING = (
    "legal: trimmed_mean withstands no hostile owner: 2 owners are fewer than "
    "1 / malicious_fraction (0.2)"
)


def test_a_finished_round_tells_its_warnings() -> None:
    plain = RoundFinished(0, 1, {"clients": {"amt": {"loss": 2.25}}, "warnings": []})
    assert line(plain) == "round 2 done: mean loss 2.250"
    warned = RoundFinished(0, 1, {"clients": {"amt": {"loss": 2.25}}, "warnings": [WARNING]})
    assert line(warned) == f"round 2 done: mean loss 2.250; {WARNING}"
    assert line(RoundFinished(0, 0, {"warnings": [WARNING]})) == f"round 1 done; {WARNING}"
    assert line(RoundFinished(0, 0, {})) == "round 1 done"


def test_a_stage_that_starts_tells_its_warnings() -> None:
    told = StageStarted(0, "experts", 1, ("withdrawal is not exact under median",))
    assert line(told) == "stage 1 (experts): 1 round; withdrawal is not exact under median"
    assert line(StageStarted(1, "language", 2)) == "stage 2 (language): 2 rounds"
