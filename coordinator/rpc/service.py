"""The Federation service: what each call does, once it is clear who calls."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc

from fedmore.coordinator.rpc.admission import check_enrolment, check_fingerprint
from fedmore.coordinator.rpc.parts import Parts
from fedmore.coordinator.rpc.stream import Stream
from fedmore.experts.errors import FedmoreError, TokenError, WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.federation_pb2_grpc import FederationServicer
from fedmore.protos.status import abort

if TYPE_CHECKING:
    from fedmore.coordinator.registry import Member

Context = grpc.aio.ServicerContext[Any, Any]
log = logging.getLogger(__name__)


class FederationService(FederationServicer):
    """Runs in the server's loop; whatever blocks goes to a thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def Describe(  # noqa: N802 - gRPC's spelling
        self, _request: pb.DescribeRequest, _context: Context
    ) -> pb.FederationInfo:
        """What the federation is."""
        return self._parts.info.to_proto()

    async def Enrol(  # noqa: N802
        self, request: pb.EnrolRequest, context: Context
    ) -> pb.EnrolReply:
        """Use up a token."""
        async with failures(context):
            kind = check_enrolment(request, self._parts.config, self._parts.info)
            member, credential = await asyncio.to_thread(
                self._parts.registry.enrol,
                request.token,
                request.name,
                kind,
                request.target,
                request.rank,
            )
            self._parts.traffic.identify(context.peer(), member.name)
            return pb.EnrolReply(
                credential=credential,
                node_id=member.node_id,
                federation=self._parts.info.to_proto(),
            )

    async def Connect(self, _: object, context: Context) -> None:  # noqa: N802
        """The stream of one client, until it ends."""
        async with failures(context):
            member = await self._member(context)
            hello = await first(context, "hello")
            check_fingerprint(hello.fingerprint, self._parts.info)
            connection = self._parts.connections.admit(member, hello.session)
            welcome = pb.Welcome(
                heartbeat_s=self._parts.config.server.heartbeat_s,
                federation=self._parts.info.to_proto(),
            )
            await Stream(connection, context, self._parts).run(pb.ServerEvent(welcome=welcome))

    async def Held(self, request: pb.Blob, context: Context) -> pb.HeldReply:  # noqa: N802
        """Where to resume an upload."""
        async with failures(context):
            member = await self._member(context)
            return self._parts.blobs.held(member.node_id, request)

    async def Upload(self, _: object, context: Context) -> pb.Receipt:  # noqa: N802
        """Receive a blob."""
        async with failures(context):
            member = await self._member(context)
            start = await first(context, "start")
            return await self._parts.blobs.receive(member.node_id, start, chunks(context))

    async def Download(  # noqa: N802
        self, request: pb.DownloadRequest, context: Context
    ) -> AsyncIterator[pb.Chunk]:
        """Send a blob."""
        async with failures(context):
            member = await self._member(context)
            async for chunk in self._parts.blobs.send(member.node_id, request):
                yield chunk

    async def _member(self, context: Context) -> "Member":
        metadata = dict(context.invocation_metadata() or ())
        scheme, _, credential = str(metadata.get("authorization", "")).partition(" ")
        if scheme != "Bearer" or not credential:
            raise TokenError("the call carries no credential; join with an invite first")
        member = await asyncio.to_thread(self._parts.registry.authenticate, credential)
        self._parts.traffic.identify(context.peer(), member.name)
        return member


@asynccontextmanager
async def failures(context: Context) -> AsyncIterator[None]:
    """End the call with the status that an error stands for."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except FedmoreError as error:
        await abort(context, error)
    except Exception as error:
        log.exception("a call failed")
        await abort(context, error)


async def first(context: Context, kind: str) -> Any:
    """The first message of a stream, which must be of `kind`."""
    message = await context.read()
    if message is grpc.aio.EOF or getattr(message, kind, None) is None:
        raise WireError(f"the stream must begin with {kind!r}")
    field = message.WhichOneof("event" if kind == "hello" else "part")
    if field != kind:
        raise WireError(f"the stream must begin with {kind!r}, not {field!r}")
    return getattr(message, kind)


async def chunks(context: Context) -> AsyncIterator[bytes]:
    """The chunks of an upload."""
    while (message := await context.read()) is not grpc.aio.EOF:
        if message.WhichOneof("part") != "chunk":
            raise WireError("an upload has one start, and chunks after it")
        yield message.chunk
