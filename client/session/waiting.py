"""What a client that waits tells its owner: how far the federation is, in one line now and then."""

import time
from collections.abc import Callable

from fedmore.protos import federation_pb2 as pb
from fedmore.protos.system.terminal import plain

AT_MOST_EVERY_S = 5.0
PROGRESS_EVERY_S = 60.0
LONGEST_KIND = 40


class Waiting:
    """Turns the coordinator's news into lines, however often and whatever it sends.

    Another stage, round or work is told after `AT_MOST_EVERY_S` seconds at the earliest, and mere
    progress after `PROGRESS_EVERY_S`.
    """

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._told_at = float("-inf")
        self._told: object = None
        self._line = ""

    def hear(self, news: pb.News) -> None:
        """Tell it, if it is due."""
        line, subject = line_of(news), (news.doing, news.stage, news.round)
        wait = PROGRESS_EVERY_S if subject == self._told else AT_MOST_EVERY_S
        if line == self._line or self._clock() < self._told_at + wait:
            return
        self._told, self._told_at, self._line = subject, self._clock(), line
        self._say(line)


def line_of(news: pb.News) -> str:
    """The news as one line."""
    if news.doing == pb.News.GATHERING:
        return f"waiting for the others: {news.done} of {news.total} clients are here"
    where = f"stage {news.stage} of {news.stages}" if news.stage else "the app runs"
    if kind := plain(news.kind, LONGEST_KIND):
        where += f" ({kind})"
    if news.doing == pb.News.SCORING:
        return f"waiting: {where} is being scored, {news.done} of {news.total} passes are done"
    if news.round:
        where += f", round {news.round} of {news.rounds}"
    return f"waiting: {where}; {news.done} of {news.total} clients have answered"
