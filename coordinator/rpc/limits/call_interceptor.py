"""Every call passes here first: counted for its caller, its messages measured before parsing.

gRPC parses a request before any code of ours runs, and waits for it without one. So each method is
served as a stream of bytes: the call is counted when it comes, what it says is read and measured
here, and only then is the service asked.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from fedmore.coordinator.rpc.auth import Context
from fedmore.coordinator.rpc.context import ServerContext
from fedmore.coordinator.rpc.limits.call_limits import Call, CallLimiter
from fedmore.coordinator.rpc.socket_bytes import parse_peer
from fedmore.experts.errors import TransportError, WireError
from fedmore.protos.wire.parse_budget import parse_request

CANCEL_AGAIN_S = 0.5
FIRST_S = 10.0
"""Seconds within which a call must bring its request."""

LARGE = 64 << 10
"""Bytes above which a message is measured in a thread."""


class CallGuard(grpc.aio.ServerInterceptor):
    """Used from the server's loop only."""

    parts: ServerContext
    """Set before the server starts: it takes the port, which these need, after its interceptors."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """The handler for a call, guarded; None for a method that is not there."""
        method = details.method
        if method not in self._made:
            handler = await continuation(details)
            if handler is None:
                return None
            self._made[method] = self._guarded(handler, method)
        return self._made[method]

    def _guarded(self, handler: Any, method: str) -> Any:
        kind = handler.request_deserializer.__self__  # the class that `FromString` is of

        async def behave(_: object, context: Context) -> None:
            parts, peer = self.parts, context.peer()
            async with parts.refusals.of(context, method.rpartition("/")[2]):
                call = parts.crowd.enter(parts.gate.who(context), parse_peer(peer), method)
                try:
                    guarded = Guarded(context, call, parts.crowd, kind)
                    await _until_ended(_serve(handler, guarded), call)
                finally:
                    parts.crowd.leave(call)
                    parts.traffic.settle(peer)

        return grpc.stream_stream_rpc_method_handler(behave, None, handler.response_serializer)


class Guarded:
    """A call's context whose `read` measures a message before it is parsed."""

    def __init__(self, context: Context, call: Call, crowd: CallLimiter, kind: Any) -> None:
        self.call = call
        self._context = context
        self._crowd = crowd
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        """All else is gRPC's."""
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The next message; what the last one took is free again."""
        self._crowd.release(self.call)
        data = await self._context.read()
        if data is grpc.aio.EOF:
            return data
        self._crowd.hold(self.call, len(data))
        if len(data) > LARGE:
            message, size = await asyncio.to_thread(parse_request, data, self._kind)
        else:
            message, size = parse_request(data, self._kind)
        self._crowd.hold(self.call, size)
        return message

    async def request(self) -> Any:
        """The one message of a call that is no stream; it must come soon."""
        try:
            message = await asyncio.wait_for(self.read(), FIRST_S)
        except TimeoutError:
            raise TransportError(f"the call brought no request for {FIRST_S:g} s") from None
        if message is grpc.aio.EOF:
            raise WireError("the call ended without a request")
        return message

    async def messages(self) -> AsyncIterator[Any]:
        """What is said until the caller is done."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message


async def _serve(handler: Any, context: Guarded) -> None:
    """Ask the service, whichever of the four kinds of method it is."""
    given = context.messages() if handler.request_streaming else await context.request()
    kinds = handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream
    answer = next(kind for kind in kinds if kind is not None)(given, context)
    if hasattr(answer, "__aiter__"):
        async with aclosing(answer):  # or what it has open stays so when the call is cut off
            async for reply in answer:
                await context.write(reply)
    elif not handler.response_streaming:
        await context.write(await answer)
    else:
        await answer


async def _until_ended(serving: Any, call: Call) -> None:
    """Serve until that is done, or the call is to end: it then ends with the error of that."""
    task = asyncio.ensure_future(serving)
    try:
        await asyncio.wait({task, call.ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        while not task.done():  # one alone may be lost: `wait_for` swallows it now and then
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
    if call.ended.done() and task.cancelled():
        raise call.ended.result()
    task.result()
