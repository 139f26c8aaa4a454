"""How much one member may have open at once."""

from collections import Counter, defaultdict
from typing import Any

import grpc

from fedmore.experts.errors import TransportError

CALLS, CONNECTIONS = 64, 16
"""Calls and connections that a member may have; our client has about six calls on two, and
more for half a minute where its connection is lost again and again."""


class Crowd:
    """Counts calls by member and by connection; used from the server's loop only."""

    def __init__(self) -> None:
        self._open: defaultdict[int, Counter[str]] = defaultdict(Counter)

    def enter(self, node_id: int, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Count a call until it ends; raises `TransportError` where there are too many."""
        calls, peer = self._open[node_id], context.peer()
        if calls.total() >= CALLS:
            raise TransportError(f"{CALLS} of your calls are open; end one of them first")
        if peer not in calls and len(calls) >= CONNECTIONS:
            raise TransportError(f"{CONNECTIONS} connections of yours are open; close one first")
        calls[peer] += 1
        # The stubs have a class here; gRPC takes a function.
        context.add_done_callback(lambda _: self._leave(node_id, peer))  # type: ignore[arg-type]

    def _leave(self, node_id: int, peer: str) -> None:
        calls = self._open[node_id]
        calls[peer] -= 1
        if not calls[peer]:
            del calls[peer]
        if not calls:
            del self._open[node_id]
