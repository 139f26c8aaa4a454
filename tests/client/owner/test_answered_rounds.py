"""One answer for each round, for ever."""

import json

import pytest

from fedmore.client.owner.answered_rounds import DAY_S, FILE, Answered
from fedmore.experts.errors import DataError, EgressError


@pytest.fixture
def answered(tmp_path):
    return Answered(tmp_path, clock=lambda: 1_000_000.0)


def test_the_same_task_may_come_again_and_another_may_not(answered):
    answered.claim("experts/1", "k1")
    answered.claim("experts/1", "k1")
    for _ in range(2):
        with pytest.raises(EgressError, match="round experts/1 a second time"):
            answered.claim("experts/1", "k2")


def test_it_holds_after_a_restart(answered, tmp_path):
    answered.claim("experts/1", "k1")
    with pytest.raises(EgressError, match="a second time"):
        Answered(tmp_path).claim("experts/1", "k2")


def test_an_earlier_round_is_not_worked_out_again(answered):
    """From the state after round 2, round 1 would be another answer."""
    for number in (1, 2):
        answered.claim(f"experts/{number}", "k")
    with pytest.raises(EgressError, match="again after experts/2 was begun"):
        answered.claim("experts/1", "k")
    answered.claim("language/1", "k")
    answered.claim("experts/2", "k")


def test_rounds_in_a_day(tmp_path):
    now = [0.0]
    answered = Answered(tmp_path, clock=lambda: now[0])
    for number in (1, 2):
        answered.claim(f"experts/{number}", "k", per_day=2)
    answered.claim("experts/2", "k", per_day=2)  # begun already
    with pytest.raises(EgressError, match="2 rounds were begun within 24 hours"):
        answered.claim("experts/3", "k", per_day=2)
    now[0] = DAY_S
    answered.claim("experts/3", "k", per_day=2)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"experts/1": 3}', '{"experts/1": {}}', "null"])
def test_damage_is_not_taken_for_nothing_answered(answered, tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match="damaged"):
        answered.claim("experts/1", "k")


def test_a_claim_is_on_disk_when_it_returns(answered, tmp_path):
    answered.claim("experts/1", "k")
    assert json.loads((tmp_path / FILE).read_text()) == {
        "experts/1": {"task": "k", "time": 1_000_000.0}
    }
