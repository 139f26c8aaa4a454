"""Trying again: jittered exponential backoff, up to a limit of patience."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from fedmore.experts.errors import TransportError

T = TypeVar("T")


class Patience:
    """Delays of 0.2, 0.4, … up to 10 s, until `limit_s` have passed.

    Each is scaled by a random factor of 0.5 to 1, so that clients do not come back all at once.
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
        self.reset()

    def reset(self) -> None:
        """It worked: the limit counts from now."""
        self._since = self._clock()
        self._delay = self.FIRST_S

    def next_delay(self, error: TransportError) -> float:
        """Seconds to wait after `error`, which is raised once patience is at its end."""
        left = self._since + self._limit_s - self._clock()
        if left <= 0:
            raise TransportError(f"{error}; gave up after {self._limit_s:g} s") from error
        delay = min(self._delay * (0.5 + 0.5 * self._jitter()), left)
        self._delay = min(2 * self._delay, self.LARGEST_S)
        return delay


def persist(action: Callable[[], T], limit_s: float, stopped: threading.Event) -> T:
    """Do `action` until it does not raise `TransportError`, patience ends, or `stopped` is set."""
    patience = Patience(limit_s)
    while True:
        try:
            return action()
        except TransportError as error:
            if stopped.wait(patience.next_delay(error)):
                raise
