"""A client that waits says how far the plan is: now and then, whatever the coordinator sends."""

from fedmore.client.session.waiting import Waiting, line_of
from fedmore.protos import federation_pb2 as pb


class World:
    def __init__(self):
        self.now, self.said = 0.0, []
        self.waiting = Waiting(self.said.append, clock=lambda: self.now)

    def hear(self, seconds, **news):
        self.now += seconds
        self.waiting.hear(pb.News(doing=pb.News.ROUND, stages=3, **news))
        return len(self.said)


def test_another_round_is_told_at_once_and_mere_progress_once_a_minute():
    world = World()
    assert world.hear(0, stage=1, round=1, total=4) == 1
    assert world.hear(30, stage=1, round=1, done=1, total=4) == 1
    assert world.hear(31, stage=1, round=1, done=2, total=4) == 2
    assert world.hear(6, stage=1, round=2, total=4) == 3
    assert world.hear(600, stage=1, round=2, total=4) == 3, "nothing is new"


def test_a_coordinator_that_changes_its_word_all_the_time_is_told_of_rarely():
    world = World()
    for number in range(1_000):
        world.hear(0.1, stage=1 + number % 2, round=number)
    assert 15 <= len(world.said) <= 21


def test_what_the_coordinator_calls_a_stage_is_shown_and_not_obeyed():
    line = line_of(pb.News(doing=pb.News.SCORING, stage=1, stages=1, kind="\x1b[2J" + "x" * 999))
    assert "\x1b" not in line
    assert len(line) < 200
