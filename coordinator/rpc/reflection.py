"""Server reflection (`grpc.reflection.v1alpha`), for operators."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from fedmore.coordinator.rpc.auth import Authenticator, Context
from fedmore.coordinator.rpc.refusals import Refusals


def add_reflection(
    server: grpc.aio.Server, refusals: Refusals, gate: Authenticator, names: Iterable[str]
) -> None:
    """Add reflection of the services `names` for operators."""
    servicer = Reflection((*names, reflection.SERVICE_NAME))
    servicer.refusals, servicer.gate = refusals, gate
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """Answers callers with an operator's certificate."""

    refusals: Refusals
    gate: Authenticator

    async def ServerReflectionInfo(  # noqa: N802 - gRPC's spelling
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        """Describe the services and their messages."""
        async with self.refusals.of(context, "ServerReflectionInfo"):
            await self.gate.operator(context)
        async for reply in super().ServerReflectionInfo(requests, context):
            yield reply
