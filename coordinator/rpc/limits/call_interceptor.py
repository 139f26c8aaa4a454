"""Counts every call for its caller, and measures messages before they are parsed.

gRPC would wait for a request and parse it before any code of ours runs. So each method is served as
a stream of bytes. The call is counted when it arrives, its message is read and measured here, and
only then the service is called.
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
"""Seconds within which a call's request must arrive."""

LARGE = 64 << 10
"""Bytes above which a message is measured in a thread."""


class CallGuard(grpc.aio.ServerInterceptor):
    """The server's interceptor, used from the server's loop only."""

    parts: ServerContext
    """Set before the server starts, but after its interceptors, because it depends on the port."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Return the guarded handler for a call; None for an unknown method."""
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
    """A call's context with a `read` that measures a message before it is parsed."""

    def __init__(self, context: Context, call: Call, crowd: CallLimiter, kind: Any) -> None:
        self.call = call
        self._context = context
        self._crowd = crowd
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        """Pass all other attributes on to gRPC's context."""
        return getattr(self._context, name)

    async def read(self) -> Any:
        """Read the next message, and release the memory of the last one."""
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
        """Read the only message of a unary call, which must arrive in time."""
        try:
            message = await asyncio.wait_for(self.read(), FIRST_S)
        except TimeoutError:
            raise TransportError(f"the call brought no request for {FIRST_S:g} s") from None
        if message is grpc.aio.EOF:
            raise WireError("the call ended without a request")
        return message

    async def messages(self) -> AsyncIterator[Any]:
        """Yield messages until the caller ends its side."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message


async def _serve(handler: Any, context: Guarded) -> None:
    """Call the service's method, for each of gRPC's four kinds of methods."""
    given = context.messages() if handler.request_streaming else await context.request()
    kinds = handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream
    answer = next(kind for kind in kinds if kind is not None)(given, context)
    if hasattr(answer, "__aiter__"):
        async with aclosing(answer):  # otherwise its files stay open if the call is cancelled
            async for reply in answer:
                await context.write(reply)
    elif not handler.response_streaming:
        await context.write(await answer)
    else:
        await answer


async def _until_ended(serving: Any, call: Call) -> None:
    """Serve until done, or until the call must end; then raise the error that it must end with."""
    task = asyncio.ensure_future(serving)
    try:
        await asyncio.wait({task, call.ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        while not task.done():  # repeated, because `wait_for` sometimes swallows a cancellation
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
    if call.ended.done() and task.cancelled():
        raise call.ended.result()
    task.result()
