"""The Federation service: identifies the caller and carries out each call."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from fedmore.coordinator.rpc.admission import check_fingerprint
from fedmore.coordinator.rpc.auth import caller
from fedmore.coordinator.rpc.connections import OUSTED
from fedmore.coordinator.rpc.context import ServerContext
from fedmore.coordinator.rpc.stream import Stream
from fedmore.coordinator.store.members import LONGEST_REASON
from fedmore.experts.errors import NameTakenError, TransportError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationServicer
from fedmore.protos.system.terminal import plain
from fedmore.protos.wire.status import abort
from fedmore.strategies.events import Withdrawn

if TYPE_CHECKING:
    from fedmore.coordinator.store.records import Member

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
FIRST_S = 10.0
"""Seconds within which a stream's first message must arrive."""


class FederationService(FederationServicer):
    """Serves clients. It runs in the server's loop; blocking work runs in threads."""

    def __init__(self, parts: ServerContext) -> None:
        self._parts = parts

    async def Describe(  # noqa: N802 - gRPC's spelling
        self, _request: pb.DescribeRequest, context: Context
    ) -> pb.FederationInfo:
        """Describe the federation."""
        async with self._parts.refusals.of(context, "Describe"):
            await self._parts.gate.anybody(context)
            return self._parts.info.to_proto()

    async def Enrol(  # noqa: N802
        self, request: pb.EnrolRequest, context: Context
    ) -> pb.EnrolReply:
        """Enrol a client with a one-time token."""
        async with self._parts.refusals.of(context, "Enrol"):
            invite = self._parts.gate.invited(context, request.name)
            member, reply = await asyncio.to_thread(self._parts.desk.enrol, request, invite)
            self._parts.traffic.identify(context.peer(), member.name)
            return reply

    async def Renew(  # noqa: N802
        self, request: pb.RenewRequest, context: Context
    ) -> pb.RenewReply:
        """Renew the caller's certificate."""
        async with self._parts.refusals.of(context, "Renew"):
            member = await self._parts.gate.member(context)
            identity = caller(context).identity
            return await asyncio.to_thread(self._parts.desk.renew, member, identity, request)

    async def Withdraw(  # noqa: N802
        self, request: pb.WithdrawRequest, context: Context
    ) -> pb.WithdrawReply:
        """Withdraw the calling member and its work."""
        async with self._parts.refusals.of(context, "Withdraw"):
            member = await self._parts.gate.member(context)
            reason = plain(request.reason, LONGEST_REASON)
            await asyncio.to_thread(
                self._parts.registry.check_second_proof, request.token, member.name
            )
            await asyncio.to_thread(self._parts.registry.withdraw, member.name, reason)
            self._parts.emit(Withdrawn(member.name, reason))
            self._parts.expel(member.node_id, "withdrawn by its owner")
            return pb.WithdrawReply()

    async def Connect(self, _: object, context: Context) -> None:  # noqa: N802
        """Serve the stream of one client until it ends."""
        async with self._parts.refusals.of(context, "Connect"):
            member = await self._parts.gate.member(context)
            hello = await first(context, "hello")
            check_fingerprint(hello.fingerprint, self._parts.info)
            connection = self._parts.connections.admit(member, hello.session)
            welcome = pb.Welcome(
                heartbeat_s=self._parts.config.server.heartbeat_s,
                federation=self._parts.info.to_proto(),
            )
            try:
                stream = Stream(connection, context, self._parts)
                ending = await stream.run(pb.ServerEvent(welcome=welcome))
            finally:  # also if the call is cancelled before or while the stream ends
                self._parts.connections.detach(connection)
            if ending == OUSTED:
                raise NameTakenError(f"{member.name!r}: {OUSTED}")
            if ending:
                await abort(context, TransportError(ending))  # outside `refusals`, since it is none

    async def Held(self, request: pb.Blob, context: Context) -> pb.HeldReply:  # noqa: N802
        """Return the offset at which to resume an upload."""
        async with self._parts.refusals.of(context, "Held"):
            member = await self._parts.gate.member(context)
            return await asyncio.to_thread(self._parts.uploads.held, member.node_id, request)

    async def Upload(self, _: object, context: Context) -> pb.Receipt:  # noqa: N802
        """Receive a blob."""
        async with self._parts.refusals.of(context, "Upload"):
            member = await self._parts.gate.member(context)
            start = await first(context, "start")
            coming = self._alive(member, chunks(context))
            return await self._parts.uploads.receive(member.node_id, start, coming)

    async def Download(  # noqa: N802
        self, request: pb.DownloadRequest, context: Context
    ) -> AsyncGenerator[pb.Chunk, None]:
        """Send a blob."""
        async with self._parts.refusals.of(context, "Download"):
            member = await self._parts.gate.member(context)
            sent = self._parts.downloads.send(member.node_id, request)
            async with aclosing(self._alive(member, sent)) as pieces:
                async for chunk in pieces:
                    yield chunk

    async def _alive(
        self, member: "Member", source: AsyncGenerator[T, None]
    ) -> AsyncGenerator[T, None]:
        """Yield from `source` and record every piece as a sign of life of `member`."""
        async with aclosing(source) as pieces:
            async for piece in pieces:
                self._parts.connections.alive(member.node_id)
                yield piece


async def first(context: Context, kind: str, within_s: float | None = None) -> Any:
    """Read the first message of a stream, which must be of `kind` and arrive in time."""
    within_s = FIRST_S if within_s is None else within_s
    try:
        message = await asyncio.wait_for(context.read(), within_s)
    except TimeoutError:
        # Probably a slow machine at either end, so the client should retry.
        raise TransportError(f"the stream began without {kind!r} for {within_s:g} s") from None
    if message is grpc.aio.EOF or getattr(message, kind, None) is None:
        raise WireError(f"the stream must begin with {kind!r}")
    field = message.WhichOneof("event" if kind == "hello" else "part")
    if field != kind:
        raise WireError(f"the stream must begin with {kind!r}, not {field!r}")
    return getattr(message, kind)


async def chunks(context: Context) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of an upload."""
    while (message := await context.read()) is not grpc.aio.EOF:
        if message.WhichOneof("part") != "chunk":
            raise WireError("an upload has one start, and chunks after it")
        chunk = message.chunk
        del message  # it has a copy of the chunk
        yield chunk
        del chunk  # otherwise it stays in memory until the next one arrives
