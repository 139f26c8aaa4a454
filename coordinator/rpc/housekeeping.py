"""What the server sees to every second: who is here, who moved how much, whether there is room."""

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
"""So often in a row is the disk of a barred member given back: calls of it may still be ending."""

log = logging.getLogger(__name__)


class Tender:
    """Runs in the server's loop. What goes wrong is said once, and once that it is over."""

    def __init__(self, parts: ServerContext, doors: Doorkeeper | None, health: Health) -> None:
        self._parts = parts
        self._doors = doors
        self._health = health
        self._freed: Counter[int] = Counter()

    async def run(self) -> None:
        """Until it is cancelled."""
        tick = min(TICK_S, self._parts.config.server.dead_after_s / 4)
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
        """Write down who was here, and what crossed the connections since the last time."""
        await self._write_down(self._parts.traffic.sample())

    async def _tend(self) -> None:
        if self._doors is not None:
            self._doors.tend()  # first: it makes room for all else
        fresh = self._parts.traffic.sample()
        connections = self._parts.connections
        connections.heard({name for name, (up, _) in fresh.items() if up})
        connections.sweep()
        await self._health.look()
        await self._expel_barred()
        await self._write_down(fresh)
        await self._parts.uploads.tend(self._parts.crowd.nodes())

    async def _expel_barred(self) -> None:
        """Let go of members that were revoked, here or by another process, or have withdrawn."""
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
