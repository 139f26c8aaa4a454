"""Server reflection (`grpc.reflection.v1alpha`), for operators."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from fedmore.coordinator.rpc.auth import Context
from fedmore.coordinator.rpc.context import ServerContext


def add_reflection(server: grpc.aio.Server, parts: ServerContext, names: Iterable[str]) -> None:
    """Let operators ask for the services `names`."""
    servicer = Reflection((*names, reflection.SERVICE_NAME))
    servicer.parts = parts
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """Answers those whom the gate knows as operators."""

    parts: ServerContext

    async def ServerReflectionInfo(  # noqa: N802 - gRPC's spelling
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        """What the services and their messages are."""
        async with self.parts.refusals.of(context, "ServerReflectionInfo"):
            await self.parts.gate.operator(context)
        async for reply in super().ServerReflectionInfo(requests, context):
            yield reply
