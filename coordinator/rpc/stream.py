"""One client's stream: tasks go out as they come in, what the client says is taken in."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from flwr.app import Message

from fedmore.coordinator.rpc.connections import FINISHED, Connection
from fedmore.coordinator.rpc.parts import Parts
from fedmore.experts.errors import FedmoreError, TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.status import describe
from fedmore.protos.wire import pack_task, unpack_reply
from fedmore.strategies.events import Received, Report, Sent, progress_of

log = logging.getLogger(__name__)
GRACE_S = 5.0


class Stream:
    """Runs in the server's loop; costs no thread while nothing happens."""

    def __init__(
        self,
        connection: Connection,
        context: "grpc.aio.ServicerContext[Any, Any]",
        parts: Parts,
    ) -> None:
        self._connection = connection
        self._member = connection.member
        self._context = context
        self._connections = parts.connections
        self._mailbox = parts.mailbox
        self._blobs = parts.blobs
        self._emit = parts.emit
        self._replies: set[asyncio.Task[None]] = set()

    async def run(self, welcome: pb.ServerEvent) -> None:
        """Until the client leaves, or the connection is told to end."""
        listening = asyncio.create_task(self._listen())
        speaking = asyncio.create_task(self._speak(welcome))
        both = {listening, speaking}
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if speaking in done and self._connection.ending == FINISHED:
                await asyncio.wait({listening}, timeout=GRACE_S)
            for task in done:
                task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, *self._replies, return_exceptions=True)
            self._connections.detach(self._connection)
        if self._connection.ending not in (None, FINISHED):
            raise TransportError(str(self._connection.ending))

    async def _speak(self, welcome: pb.ServerEvent) -> None:
        await self._context.write(welcome)
        node_id, wake = self._member.node_id, self._connection.wake
        while True:
            wake.clear()
            for task_id in self._mailbox.take_withdrawn(node_id):
                await self._context.write(pb.ServerEvent(cancel=pb.Cancel(task_id=task_id)))
            # `ending` first: a stream that was replaced must not take its successor's task.
            while self._connection.ending is None and (task := self._mailbox.take(node_id)):
                await self._send(task)
            if self._connection.ending is not None:
                break
            await wake.wait()
        if self._connection.ending == FINISHED:
            await self._context.write(pb.ServerEvent(finish=pb.Finish(reason=FINISHED)))

    async def _send(self, task: Message) -> None:
        try:
            message, size = await asyncio.to_thread(self._pack, task)
        except FedmoreError as error:
            self._mailbox.fail(task.metadata.message_id, describe(error))
            return
        await self._context.write(pb.ServerEvent(task=message))
        self._emit(Sent(self._member.name, message.task_id, size))

    def _pack(self, task: Message) -> tuple[pb.Task, int]:
        packed = pack_task(task)
        for data in packed.blobs.values():
            self._blobs.store.put(data)
        self._blobs.grant(self._member.node_id, packed.message.task_id, packed.blobs)
        return packed.message, packed.size

    async def _listen(self) -> None:
        while (event := await self._context.read()) is not grpc.aio.EOF:
            self._connections.seen(self._connection)
            kind = event.WhichOneof("event")
            if kind == "progress":
                self._progress(event.progress)
            elif kind == "reply":
                taking = asyncio.create_task(self._take(event.reply))
                self._replies.add(taking)
                taking.add_done_callback(self._replies.discard)
            elif kind == "leave":
                self._connections.leave(self._connection, event.leave.reason)
                return

    def _progress(self, message: pb.Progress) -> None:
        task = self._own_task(message.task_id)
        if task is not None:
            report = Report(
                step=message.step,
                steps=message.steps,
                loss=message.loss,
                tokens_per_s=message.tokens_per_s,
                tokens=message.tokens,
            )
            self._emit(progress_of(self._member.name, task, report))

    async def _take(self, message: pb.Reply) -> None:
        task = self._own_task(message.task_id)
        if task is None:
            return
        sizes = [message.ByteSize()]
        try:
            reply = await asyncio.to_thread(unpack_reply, message, task, self._fetch(sizes))
        except Exception as error:  # a bad reply fails its task, not the stream
            if not isinstance(error, FedmoreError):
                log.exception("a reply of %s could not be read", self._member.name)
            self._mailbox.fail(message.task_id, describe(error))
            self._emit(Received(self._member.name, message.task_id, sum(sizes), describe(error)))
            return
        if self._mailbox.reply(reply):
            failure = (reply.error.reason or "failed") if reply.has_error() else ""
            self._emit(Received(self._member.name, message.task_id, sum(sizes), failure))
            self._blobs.revoke(self._member.node_id, message.task_id)

    def _fetch(self, sizes: list[int]) -> Callable[[str, int], bytes]:
        def fetch(digest: str, _: int) -> bytes:
            data = self._blobs.fetch(self._member.node_id, digest)
            sizes.append(len(data))
            return data

        return fetch

    def _own_task(self, task_id: str) -> Message | None:
        task = self._mailbox.task(task_id)
        mine = task is not None and task.metadata.dst_node_id == self._member.node_id
        return task if mine else None
