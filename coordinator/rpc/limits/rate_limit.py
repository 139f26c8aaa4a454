"""Limits how often a client may send something that costs the coordinator work."""

import time
from collections.abc import Callable


class TokenBucket:
    """A token bucket: `rate` times per second, and `burst` times at once after a pause."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    @property
    def rested(self) -> bool:
        """Whether the whole burst is available again."""
        self._fill()
        return self._left >= self._burst

    def allows(self) -> bool:
        """Take one token; returns whether there was one."""
        self._fill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
