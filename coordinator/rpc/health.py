"""The service `grpc.health.v1`: SERVING while disk and database can store what clients send."""

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
    """The health of the services `names`, and of the whole server, whose name is empty."""

    def __init__(self, registry: "Registry", uploads: Uploads, names: Sequence[str]) -> None:
        self._registry = registry
        self._uploads = uploads
        self._names = ("", *names)
        self._ill: str | None = None
        self._servicer = health.aio.HealthServicer()

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Add the service to the server, with the state SERVING."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._set("")

    async def look(self) -> None:
        """Check disk and database; call it about every second."""
        ill = await asyncio.to_thread(self._look)
        if ill and not self._ill:
            log.error("not serving: %s", ill)
        if ill != self._ill:
            await self._set(ill)

    async def end(self) -> None:
        """Set NOT_SERVING until the end."""
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
