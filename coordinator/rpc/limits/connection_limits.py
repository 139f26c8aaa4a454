"""Limits connections of strangers in number and time, and further if descriptors are short.

A stranger is a connection without any call yet, for example one that has not finished its
handshake. gRPC gives no access to those, so they are found among the process's sockets and closed
there.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedmore.coordinator.rpc.descriptors import limit_of_descriptors
from fedmore.coordinator.rpc.limits.call_limits import CallLimiter
from fedmore.coordinator.rpc.socket_bytes import SocketMeter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Most strangers per address (`each`) and in `total`, and seconds until a call is due.

    Those above are closed, the oldest first, but none within its first `grace_s` seconds. The
    fraction `spare` of the process's descriptors is kept free, by closing strangers and connections
    without a call.
    """

    each: int = 256
    total: int = 1_024
    grace_s: float = 3.0
    stranger_s: float = 20.0
    spare: float = 0.2


class Doorkeeper:
    """Closes connections. It is used from the server's loop only.

    Call `tend` about every second.
    """

    def __init__(
        self,
        meter: SocketMeter,
        crowd: CallLimiter,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter = meter
        self._crowd = crowd
        self._limits = limits or Limits()
        self._clock = clock
        self._came: dict[str, float] = {}
        self._short = False

    def tend(self) -> None:
        """Close overdue strangers, and further connections if descriptors are short."""
        alive, now = self._meter.discover(), self._clock()
        self._crowd.keep(alive)
        self._came = {peer: self._came.get(peer, now) for peer in alive}
        known = self._crowd.known()
        strangers = [p for p in sorted(self._came, key=self._came.__getitem__) if p not in known]
        gone = self._overdue(strangers, now)
        if gone:
            log.warning("hung up on %d connections without a call: %s", len(gone), _from(gone))
        gone |= self._make_room([p for p in strangers if p not in gone])
        for peer in gone:
            self._meter.hang_up(peer)

    def _overdue(self, strangers: list[str], now: float) -> set[str]:
        """Strangers above the time limit, and the oldest above the number limits."""
        old = {p for p in strangers if now - self._came[p] >= self._limits.stranger_s}
        left = [p for p in strangers if p not in old]
        by_address: dict[str, list[str]] = {}
        for peer in left:
            by_address.setdefault(_address(peer), []).append(peer)
        many = {p for peers in by_address.values() for p in _above(peers, self._limits.each)}
        many |= set(_above([p for p in left if p not in many], self._limits.total))
        return old | {p for p in many if now - self._came[p] >= self._limits.grace_s}

    def _make_room(self, strangers: list[str]) -> set[str]:
        """Choose connections to close because descriptors run out.

        Logs when that begins and ends.
        """
        used, limit = self._meter.descriptors, limit_of_descriptors()
        missing = used - int(limit * (1 - self._limits.spare))
        if missing <= 0:
            if self._short:
                log.warning("descriptors are free again: %d of %d are used", used, limit)
            self._short = False
            return set()
        gone = [*strangers, *self._crowd.idle()][:missing]
        if not self._short:
            what = "%d of %d descriptors are used; hanging up on connections without a call (%s)"
            log.error(what + "; raise the limit (ulimit -n)", used, limit, _from(gone))
        self._short = True
        return set(gone)


def _above(peers: list[str], limit: int) -> list[str]:
    return peers[: max(0, len(peers) - limit)]


def _address(peer: str) -> str:
    return peer.rpartition(":")[0]


def _from(peers: Iterable[str]) -> str:
    found = sorted({_address(peer) for peer in peers})
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
