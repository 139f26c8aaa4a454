"""What a client that waits is told of the plan, after each kind of event."""

import pytest

from fedmore.client.session.waiting import line_of
from fedmore.coordinator.monitor.bulletin import Bulletin
from fedmore.strategies.events import (
    Joined,
    Left,
    Received,
    RoundStarted,
    Scoring,
    Sent,
    StageStarted,
)

HERE = [Joined("ana", "expert", "legal", 4), Joined("bob", "adapter", "gl", 4)]
ROUND = [*HERE, StageStarted(1, "language", 2), RoundStarted(1, 0), Sent("ana", "t1", 9)]
ASKED = [*ROUND, Sent("bob", "t2", 9)]
WHERE = "waiting: stage 2 of 3 (language)"
DONE = "clients have answered"


def after(events, stages=3):
    bulletin = Bulletin(expected=4, stages=stages)
    for event in events:
        bulletin(event)
    return line_of(bulletin.news())


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([], "waiting for the others: 0 of 4 clients are here"),
        (HERE, "waiting for the others: 2 of 4 clients are here"),
        ([*HERE, Left("ana", "gone")], "waiting for the others: 1 of 4 clients are here"),
        (ASKED, f"{WHERE}, round 1 of 2; 0 of 2 {DONE}"),
        ([*ASKED, Received("bob", "t2", 9)], f"{WHERE}, round 1 of 2; 1 of 2 {DONE}"),
        ([*ASKED, Received("bob", "old", 9)], f"{WHERE}, round 1 of 2; 0 of 2 {DONE}"),
        ([*ASKED, RoundStarted(1, 1)], f"{WHERE}, round 2 of 2; 0 of 0 {DONE}"),
        ([*ASKED, Scoring("it", 3, 12)], f"{WHERE} is being scored, 3 of 12 passes are done"),
        (
            [*ASKED, Scoring("it", 3, 12), StageStarted(2, "router", 1)],
            "waiting: stage 3 of 3 (router); 0 of 0 clients have answered",
        ),
    ],
)  # fmt: skip
def test_the_line_after(events, line):
    assert after(events) == line


def test_an_app_has_no_stages_and_its_answers_are_counted_anew_when_all_are_there():
    asked = [*HERE, Sent("ana", "t1", 9), Sent("bob", "t2", 9)]
    assert after(asked, 0) == "waiting: the app runs; 0 of 2 clients have answered"
    answered = [*asked, Received("ana", "t1", 9), Received("bob", "t2", 9)]
    assert after([*answered, Sent("ana", "t3", 9)], 0).endswith("; 0 of 1 clients have answered")


def test_every_event_is_passed_on():
    heard = []
    bulletin = Bulletin(4, 3, heard.append)
    for event in ASKED:
        bulletin(event)
    assert heard == ASKED
