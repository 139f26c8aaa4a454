"""What a round's metrics warn of is in its line: a rule that has nobody to cut off."""

from fedmore.coordinator.console import line
from fedmore.strategies.events import RoundFinished

WARNING = (
    "legal: trimmed_mean withstands no hostile owner: 2 owners are fewer than 1 / hostile (0.2)"
)


def test_a_finished_round_tells_its_warnings() -> None:
    plain = RoundFinished(0, 1, {"clients": {"amt": {"loss": 2.25}}, "warnings": []})
    assert line(plain) == "round 2 done: mean loss 2.250"
    warned = RoundFinished(0, 1, {"clients": {"amt": {"loss": 2.25}}, "warnings": [WARNING]})
    assert line(warned) == f"round 2 done: mean loss 2.250; {WARNING}"
    assert line(RoundFinished(0, 0, {"warnings": [WARNING]})) == f"round 1 done; {WARNING}"
    assert line(RoundFinished(0, 0, {})) == "round 1 done"
