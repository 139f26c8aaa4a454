"""Progress of the plan for waiting clients: takes events, and gives the current news."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fedmore.protos import federation_pb2 as pb
from fedmore.strategies.events import (
    Event,
    Joined,
    Left,
    Received,
    RoundStarted,
    Scoring,
    Sent,
    StageStarted,
)


@dataclass(frozen=True)
class Now:
    """The current state: connected clients are `here`, those of the open round `asked`."""

    stage: int = 0
    kind: str = ""
    round: int = 0
    rounds: int = 0
    here: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    answered: frozenset[str] = frozenset()
    scoring: tuple[int, int] | None = None

    def after(self, event: Event) -> "Now":
        """Return the state after `event`."""
        match event:
            case Joined():
                return replace(self, here=self.here | {event.name})
            case Left():
                return replace(self, here=self.here - {event.name})
            case StageStarted():
                return Now(event.stage + 1, event.kind, 0, event.rounds, self.here)
            case RoundStarted():
                return Now(self.stage, self.kind, event.round + 1, self.rounds, self.here)
            case Scoring():
                return replace(self, scoring=(event.done, event.total))
            case Sent():
                if not self.stage and self.asked == self.answered:  # a foreign app has no stages
                    return replace(self, asked=frozenset({event.task_id}), answered=frozenset())
                return replace(self, asked=self.asked | {event.task_id})
            case Received() if event.task_id in self.asked:
                return replace(self, answered=self.answered | {event.task_id})
        return self


@dataclass
class Bulletin:
    """Takes every event and passes it on; `news` is for waiting clients.

    It may be called from any thread. News contains no names, so owners learn only how many others
    there are.
    """

    expected: int
    stages: int
    pass_on: Callable[[Event], None] = lambda _: None
    _now: Now = field(default_factory=Now, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __call__(self, event: Event) -> None:
        """Take an event and pass it on."""
        with self._lock:
            self._now = self._now.after(event)
        self.pass_on(event)

    def news(self) -> pb.News:
        """The current progress of the plan."""
        now = self._now
        doing, done, total = pb.News.ROUND, len(now.answered), len(now.asked)
        if now.scoring is not None:
            doing, (done, total) = pb.News.SCORING, now.scoring
        elif not now.stage and not now.asked:
            doing, done, total = pb.News.GATHERING, len(now.here), self.expected
        return pb.News(
            doing=doing,
            stage=now.stage,
            stages=self.stages,
            kind=now.kind,
            round=now.round,
            rounds=now.rounds,
            done=done,
            total=total,
        )
