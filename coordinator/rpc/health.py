"""What `grpc.health.v1` answers: SERVING while what clients send can be kept, and until the end."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedmore.coordinator.rpc.blobs.uploads import Uploads
from fedmore.experts.errors import FedmoreError
from fedmore.protos.wire.status import describe

if TYPE_CHECKING:
    from fedmore.coordinator.store.registry import Registry

NAME = health.SERVICE_NAME
_Status = health_pb2.HealthCheckResponse
log = logging.getLogger(__name__)


class Health:
    """Of the services `names`, and of the whole, whose name is empty."""

    def __init__(self, registry: "Registry", uploads: Uploads, names: Sequence[str]) -> None:
        self._registry = registry
        self._uploads = uploads
        self._names = ("", *names)
        self._ill: str | None = None
        self._servicer = health.aio.HealthServicer()

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it, as SERVING."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._set("")

    async def look(self) -> None:
        """Look at disk and database; to be called every second or so."""
        ill = await asyncio.to_thread(self._look)
        if ill and not self._ill:
            log.error("not serving: %s", ill)
        if ill != self._ill:
            await self._set(ill)

    async def end(self) -> None:
        """NOT_SERVING from now on."""
        await self._servicer.enter_graceful_shutdown()

    async def _set(self, ill: str) -> None:
        self._ill = ill
        status = _Status.NOT_SERVING if ill else _Status.SERVING
        for name in self._names:
            await self._servicer.set(name, status)

    def _look(self) -> str:
        try:
            self._registry.database.look()
            self._uploads.check_room()
        except (FedmoreError, OSError) as error:
            return describe(error)
        return ""
