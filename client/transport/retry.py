"""Trying again: jittered exponential backoff, up to a limit of patience."""

import math
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from fedmore.experts.errors import PeerError, TransportError

T = TypeVar("T")


class Backoff:
    """Delays of 0.2, 0.4, … up to 10 s, until `limit_s` have passed.

    Each is scaled by a random factor of 0.5 to 1, so that clients do not come back all at once.
    They begin at 0.2 s again when what works has done so for 10 s, so that a peer which takes
    connections and drops them is not called ever faster.
    """

    FIRST_S = 0.2
    LARGEST_S = 10.0

    def __init__(
        self,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._jitter = jitter
        self._since = clock()
        self._worked = math.inf
        self._delay = self.FIRST_S

    def reset(self) -> None:
        """Record a success; the retry limit starts anew at the next failure."""
        self._worked = self._clock()

    def next_delay(self, error: Exception) -> float:
        """Seconds to wait after `error`; `TransportError` once patience is at its end."""
        now = self._clock()
        if now >= self._worked + self.LARGEST_S:
            self._delay = self.FIRST_S
        if self._worked < math.inf:  # until now, maybe for weeks: the limit counts from the loss
            self._since, self._worked = now, math.inf
        left = self._since + self._limit_s - now
        if left <= 0:
            raise TransportError(f"{error}; gave up after {self._limit_s:g} s") from error
        delay = min(self._delay * (0.5 + 0.5 * self._jitter()), left)
        self._delay = min(2 * self._delay, self.LARGEST_S)
        return delay


class Quiet:
    """Tells of a lost connection in one line, however often it is tried; and when it is back."""

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._lost_at: float | None = None

    def lost(self, error: Exception, limit_s: float) -> None:
        """It could not be reached, once more."""
        if self._lost_at is None:
            self._lost_at = self._clock()
            self._say(f"{error}; trying again for up to {limit_s:g} s")

    def connected(self, name: str) -> None:
        """Record a success; the retry limit starts anew at the next failure."""
        away = "" if self._lost_at is None else f" after {self._clock() - self._lost_at:.0f} s"
        again = " again" if away else ""
        self._say(f"connected to {name}{again}{away}")
        self._lost_at = None


def persist(action: Callable[[], T], patience: Backoff | float, stopped: threading.Event) -> T:
    """Do `action` until it does not raise `TransportError`, patience ends, or `stopped` is set.

    A number is the limit of a new patience. `PeerError`, which does not pass, is raised at once.
    """
    patience = patience if isinstance(patience, Backoff) else Backoff(patience)
    while True:
        try:
            return action()
        except PeerError:
            raise
        except TransportError as error:
            if stopped.wait(patience.next_delay(error)):
                raise
