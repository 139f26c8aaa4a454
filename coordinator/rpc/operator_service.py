"""The Operator service, which `coordinator status | invite | revoke | stop FILE` call."""

import asyncio
import json
from typing import Any, Protocol

import grpc

from fedmore.coordinator.rpc.context import ServerContext
from fedmore.coordinator.store.members import LONGEST_REASON
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import OperatorServicer
from fedmore.protos.system.terminal import plain

Context = grpc.aio.ServicerContext[Any, Any]


class OperatorApi(Protocol):
    """The running coordinator's interface for operators; it blocks, so call it in a thread."""

    def status(self) -> dict[str, Any]:
        """What `coordinator status --json` prints."""

    def invite(self, name: str, expires_s: float) -> str:
        """An invite file's text."""

    def stop(self, reason: str) -> None:
        """Stop the coordinator as Ctrl-C does; returns at once."""


class OperatorService(OperatorServicer):
    """Serves operators in the server's loop; every call is logged with the operator's name."""

    def __init__(self, parts: ServerContext, office: OperatorApi) -> None:
        self._parts = parts
        self._office = office

    async def Status(  # noqa: N802 - gRPC's spelling
        self, _request: pb.StatusRequest, context: Context
    ) -> pb.StatusReply:
        """Return the status of members and plan."""
        async with self._parts.refusals.of(context, "Status"):
            await self._parts.gate.operator(context)
            found = await asyncio.to_thread(self._office.status)
            return pb.StatusReply(json=json.dumps(found))

    async def Invite(  # noqa: N802
        self, request: pb.InviteRequest, context: Context
    ) -> pb.InviteReply:
        """Make an invite for one client."""
        async with self._parts.refusals.of(context, "Invite"):
            await self._enter(context, "invite", name=request.name)
            made = await asyncio.to_thread(self._office.invite, request.name, request.expires_s)
            return pb.InviteReply(json=made)

    async def Revoke(  # noqa: N802
        self, request: pb.RevokeRequest, context: Context
    ) -> pb.RevokeReply:
        """Exclude a member from now on."""
        async with self._parts.refusals.of(context, "Revoke"):
            reason = plain(request.reason, LONGEST_REASON)
            await self._enter(context, "revoke", name=request.name, reason=reason)
            registry = self._parts.registry
            await asyncio.to_thread(registry.revoke, request.name, reason)
            for node_id, why in (await asyncio.to_thread(registry.barred)).items():
                self._parts.expel(node_id, why)
            return pb.RevokeReply()

    async def Stop(  # noqa: N802
        self, request: pb.StopRequest, context: Context
    ) -> pb.StopReply:
        """Stop the coordinator after this call is answered."""
        async with self._parts.refusals.of(context, "Stop"):
            reason = plain(request.reason, LONGEST_REASON)
            await self._enter(context, "stop", reason=reason)
            # The stubs have a class here; gRPC takes a function.
            context.add_done_callback(lambda _: self._office.stop(reason))  # type: ignore[arg-type]
            return pb.StopReply()

    async def _enter(self, context: Context, call: str, **payload: str) -> None:
        operator = await self._parts.gate.operator(context)
        kept = {"call": call, **payload}
        await asyncio.to_thread(self._parts.registry.add_event, "operator", operator, kept)
