"""Server reflection (`grpc.reflection.v1alpha`), for operators."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from fedmore.coordinator.rpc.identity import Context, Gate
from fedmore.experts.errors import FedmoreError
from fedmore.protos.status import abort


def add_reflection(server: grpc.aio.Server, gate: Gate, names: Iterable[str]) -> None:
    """Let operators ask for the services `names`."""
    servicer = Reflection((*names, reflection.SERVICE_NAME))
    servicer.gate = gate
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """Answers those whom `gate` knows as operators."""

    gate: Gate

    async def ServerReflectionInfo(  # noqa: N802 - gRPC's spelling
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        """What the services and their messages are."""
        try:
            await self.gate.operator(context)
        except FedmoreError as error:
            await abort(context, error)
        async for reply in super().ServerReflectionInfo(requests, context):
            yield reply
