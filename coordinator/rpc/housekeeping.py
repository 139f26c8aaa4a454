"""The server's work of every second: presence, traffic, disk space, health."""

import asyncio
import logging
from collections import Counter

from fedmore.coordinator.rpc.context import ServerContext
from fedmore.coordinator.rpc.health import Health
from fedmore.coordinator.rpc.limits.connection_limits import Doorkeeper
from fedmore.protos.wire.status import describe
from fedmore.strategies.events import Traffic

TICK_S = 1.0
FREED_TIMES = 5
"""How often the uploads of an excluded member are deleted, since its calls may still be ending."""

log = logging.getLogger(__name__)


class Tender:
    """Runs in the server's loop.

    A lasting failure is logged once at its begin and once at its end.
    """

    def __init__(self, parts: ServerContext, doors: Doorkeeper | None, health: Health) -> None:
        self._parts = parts
        self._doors = doors
        self._health = health
        self._freed: Counter[int] = Counter()

    async def run(self) -> None:
        """Run until it is cancelled."""
        tick = min(TICK_S, self._parts.config.server.heartbeat_timeout_s / 4)
        trouble = ""
        while True:
            await asyncio.sleep(tick)
            try:
                await self._tend()
            except Exception as error:
                found = describe(error)
                if found != trouble:
                    log.error("the server cannot see to its members: %s", found)
                trouble = found
            else:
                if trouble:
                    log.warning("the server sees to its members again")
                trouble = ""

    async def account(self) -> None:
        """Write signs of life and traffic since the last call to the registry."""
        await self._write_down(self._parts.traffic.sample())

    async def _tend(self) -> None:
        if self._doors is not None:
            self._doors.tend()  # first, since it frees descriptors for the rest
        fresh = self._parts.traffic.sample()
        connections = self._parts.connections
        connections.heard({name for name, (up, _) in fresh.items() if up})
        connections.sweep()
        await self._health.look()
        await self._expel_barred()
        await self._write_down(fresh)
        await self._parts.uploads.tend(self._parts.crowd.nodes())

    async def _expel_barred(self) -> None:
        """Remove members that were revoked, also by another process, or have withdrawn."""
        barred = await asyncio.to_thread(self._parts.registry.barred)
        for node_id, reason in barred.items():
            self._parts.expel(node_id, reason)
            if self._freed[node_id] < FREED_TIMES:
                self._freed[node_id] += 1
                await asyncio.to_thread(self._parts.uploads.bar, node_id, reason)

    async def _write_down(self, fresh: dict[str, tuple[int, int]]) -> None:
        seen = self._parts.connections.take_seen()
        if fresh or seen:
            await asyncio.to_thread(self._parts.registry.account, fresh, seen)
        for name, (up, down) in fresh.items():
            self._parts.emit(Traffic(name, up, down))
