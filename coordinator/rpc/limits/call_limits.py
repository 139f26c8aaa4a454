"""Limits each certificate's calls, connections, and memory for messages.

Usage is counted per key of a certificate. So an invite or a revoked member has its own small share,
and no caller can use up another's. Operators and the health service have separate slots.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from fedmore.coordinator.rpc.limits.rate_limit import TokenBucket
from fedmore.experts.errors import FedmoreError, TransportError


class Standing(Enum):
    """The kinds of certificates with different limits."""

    OPERATOR = "operator"
    MEMBER = "member"
    INVITE = "invite"
    BARRED = "barred"


@dataclass(frozen=True)
class Allowance:
    """The limits of one certificate.

    `memory` is in bytes of messages in progress. `rate` is new calls per second, and `burst` the
    number of calls that may follow a pause at once.
    """

    calls: int
    connections: int
    memory: int
    rate: float
    burst: int


ALLOWANCES = {
    Standing.OPERATOR: Allowance(32, 16, 4 << 20, 50, 500),
    # Our client has about six calls on two connections, and more for half a minute if its
    # connection is lost repeatedly.
    Standing.MEMBER: Allowance(64, 16, 64 << 20, 200, 2_000),
    Standing.INVITE: Allowance(8, 4, 1 << 20, 2, 60),
    Standing.BARRED: Allowance(4, 2, 256 << 10, 0.5, 20),
}
TOTAL = 8_192
"""Most calls of members and invites together, without operators and the health service."""

HEALTH = 256
"""Most calls of the health service at once, beside the total."""

HEALTH_METHOD = "/grpc.health.v1.Health/"


@dataclass(frozen=True)
class Who:
    """A caller: the identity of its certificate's key, and its kind."""

    identity: str
    standing: Standing


@dataclass(eq=False)
class Call:
    """One call; `ended` gets the error with which it must end."""

    who: Who
    peer: str
    method: str
    ended: asyncio.Future[FedmoreError]
    node_id: int | None = None
    held: int = 0


@dataclass
class _Caller:
    pace: TokenBucket
    calls: set[Call] = field(default_factory=set)
    peers: dict[str, None] = field(default_factory=dict)  # in order of arrival
    held: int = 0


class CallLimiter:
    """Limits calls and connections by certificate; it is used from the server's loop only.

    `hang_up` closes a connection; without it, only calls are limited.
    """

    def __init__(
        self,
        hang_up: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hang_up = hang_up
        self._clock = clock
        self._over: FedmoreError | None = None
        self._callers: dict[str, _Caller] = {}
        self._barred: set[str] = set()
        self._open: Counter[str] = Counter()

    def enter(self, who: Who, peer: str, method: str) -> Call:
        """Count a call until `leave`; raises `TransportError` if there are too many."""
        if self._over is not None:
            raise self._over
        if who.identity in self._barred:
            who = Who(who.identity, Standing.BARRED)
        allowed = ALLOWANCES[who.standing]
        caller = self._callers.get(who.identity)
        if caller is None:
            pace = TokenBucket(allowed.rate, allowed.burst, self._clock)
            caller = self._callers[who.identity] = _Caller(pace)
        self._make_room(caller, peer, allowed)
        if len(caller.calls) >= allowed.calls:
            raise TransportError(f"{allowed.calls} of your calls are open; end one of them first")
        if not caller.pace.allows():
            raise TransportError(f"more than {allowed.rate:g} calls a second of yours; slow down")
        self._check_total(who, method)
        call = Call(who, peer, method, asyncio.get_running_loop().create_future())
        caller.calls.add(call)
        self._open[_slots(who, method)] += 1
        return call

    def leave(self, call: Call) -> None:
        """Count the end of a call."""
        caller = self._callers[call.who.identity]
        self.release(call)
        caller.calls.discard(call)
        self._open[_slots(call.who, call.method)] -= 1
        call.ended.cancel()
        if self._hang_up is None and call.peer not in {each.peer for each in caller.calls}:
            caller.peers.pop(call.peer, None)
        self._forget(call.who.identity)

    def hold(self, call: Call, size: int) -> None:
        """Count `size` bytes of a message until `release`; raises `TransportError` if too many."""
        caller, allowed = self._callers[call.who.identity], ALLOWANCES[call.who.standing].memory
        if caller.held + size > allowed:
            raise TransportError(f"your messages take more than {allowed} bytes; send fewer")
        caller.held += size
        call.held += size

    def release(self, call: Call) -> None:
        """Release the memory of the call's message."""
        self._callers[call.who.identity].held -= call.held
        call.held = 0

    def belongs(self, context: object, node_id: int) -> None:
        """Assign the call with this `context` to a member."""
        call = getattr(context, "call", None)
        if isinstance(call, Call):
            call.node_id = node_id

    def bar(self, identity: str) -> None:
        """Give a revoked or withdrawn member the smallest limits."""
        self._barred.add(identity)

    def expel(self, node_id: int, error: FedmoreError, methods: frozenset[str]) -> None:
        """End a member's calls to `methods` (names without service) with `error`."""
        for caller in self._callers.values():
            for call in caller.calls:
                wanted = call.node_id == node_id and call.method.rpartition("/")[2] in methods
                if wanted and not call.ended.done():
                    call.ended.set_result(error)

    def end(self, error: FedmoreError) -> None:
        """End all present and future calls with `error`."""
        self._over = error
        for call in self.calls():
            if not call.ended.done():
                call.ended.set_result(error)

    def calls(self) -> list[Call]:
        """The open calls."""
        return [call for caller in self._callers.values() for call in caller.calls]

    def nodes(self) -> set[int]:
        """Node ids of members with open calls."""
        return {call.node_id for call in self.calls() if call.node_id is not None}

    def known(self) -> set[str]:
        """Connections with at least one call by a certificate."""
        return {peer for caller in self._callers.values() for peer in caller.peers}

    def keep(self, alive: set[str]) -> None:
        """Forget all connections that are not in `alive`."""
        for identity, caller in list(self._callers.items()):
            for peer in caller.peers.keys() - alive - {call.peer for call in caller.calls}:
                del caller.peers[peer]
            self._forget(identity)

    def idle(self) -> list[str]:
        """Connections without an open call, sorted so that the caller with the most comes first."""
        callers = sorted(self._callers.values(), key=lambda caller: -len(caller.peers))
        return [peer for caller in callers for peer in _idle(caller)]

    def _make_room(self, caller: _Caller, peer: str, allowed: Allowance) -> None:
        """Admit one more connection by closing the oldest idle one, or refuse it."""
        if peer not in caller.peers and len(caller.peers) >= allowed.connections:
            oldest = next(iter(_idle(caller)), None)
            if self._hang_up is None or oldest is None:
                many = f"{allowed.connections} connections of yours are open; close one first"
                raise TransportError(many)
            self._hang_up(oldest)
            del caller.peers[oldest]
        caller.peers[peer] = None

    def _check_total(self, who: Who, method: str) -> None:
        slots = _slots(who, method)
        limit = {"calls": TOTAL, "health": HEALTH}.get(slots)
        if limit is not None and self._open[slots] >= limit:
            raise TransportError(f"the coordinator has {limit} calls open; come again later")

    def _forget(self, identity: str) -> None:
        caller = self._callers[identity]
        if not caller.calls and not caller.peers and caller.pace.rested:
            del self._callers[identity]


def _slots(who: Who, method: str) -> str:
    if who.standing is Standing.OPERATOR:
        return "operators"
    return "health" if method.startswith(HEALTH_METHOD) else "calls"


def _idle(caller: _Caller) -> list[str]:
    busy = {call.peer for call in caller.calls}
    return [peer for peer in caller.peers if peer not in busy]
