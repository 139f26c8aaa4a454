"""One client's stream: sends tasks as they arrive, and handles the client's messages.

Messages are handled one after another. So a client that sends more than can be stored slows down
only its own connection.
"""

import asyncio
import logging
import time
from typing import Any

import grpc

from fedmore.coordinator.rpc.connections import FINISHED, Connection
from fedmore.coordinator.rpc.context import ServerContext
from fedmore.coordinator.rpc.limits.rate_limit import TokenBucket
from fedmore.coordinator.tasks.ids import TaskHeader
from fedmore.coordinator.tasks.queue import Task
from fedmore.experts.errors import FedmoreError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.runtime.logs import TOLD
from fedmore.protos.system.terminal import plain
from fedmore.protos.wire.messages import MAX_REASON
from fedmore.protos.wire.status import describe
from fedmore.strategies.events import Progress, Received, Refused, Sent

log = logging.getLogger(__name__)
GRACE_S = 5.0
DOUBTFUL = 100
"""Number of a heartbeat's tasks that are looked up at once; our client never has more."""
NEWS_EVERY_S = 15.0
"""Seconds after which unchanged news is sent again, since the client may not show every one."""
MISSED = 2
"""Number of consecutive heartbeats without a task after which it is sent again."""


class Stream:
    """Serves one stream in the server's loop; an idle stream needs no thread."""

    def __init__(
        self,
        connection: Connection,
        context: "grpc.aio.ServicerContext[Any, Any]",
        parts: ServerContext,
    ) -> None:
        self._connection = connection
        self._member = connection.member
        self._context = context
        self._connections = parts.connections
        self._queue = parts.queue
        self._journal = parts.journal
        self._emit = parts.emit
        self._news = parts.news
        self._told: tuple[pb.News | None, float] = (None, 0.0)
        self._refusals = parts.refusals
        self._writing = asyncio.Lock()
        self._sent: dict[str, int] = {}
        self._cancelled: frozenset[str] = frozenset()
        self._pace = TokenBucket(rate=10, burst=20)  # our client reports twice per second
        self._heartbeats = TokenBucket(rate=2 / parts.config.server.heartbeat_s, burst=10)

    async def run(self, welcome: pb.ServerEvent) -> str:
        """Serve until the client leaves or must end; returns the reason, empty at a finish."""
        listening = asyncio.create_task(self._listen())
        speaking = asyncio.create_task(self._speak(welcome))
        ending = asyncio.create_task(self._connection.ended.wait())
        every = {listening, speaking, ending}
        try:
            done, _ = await asyncio.wait(every, return_when=asyncio.FIRST_COMPLETED)
            if done == {ending}:  # do not wait for a client that does not read
                done, _ = await asyncio.wait({speaking}, timeout=GRACE_S)
            if speaking in done and self._connection.ending == FINISHED:
                await asyncio.wait({listening}, timeout=GRACE_S)
            for task in done:
                task.result()
        finally:
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)
        why = self._connection.ending or ""
        return "" if why == FINISHED else why

    async def _write(self, event: pb.ServerEvent) -> bool:
        """Send an event.

        A task only while it is open, since after `Taken` it would be done again.
        """
        async with self._writing:
            if event.HasField("task") and self._queue.task(event.task.task_id) is None:
                return False
            await self._context.write(event)
            return True

    async def _speak(self, welcome: pb.ServerEvent) -> None:
        await self._write(welcome)
        node_id, wake = self._member.node_id, self._connection.wake
        while True:
            wake.clear()
            for task_id in self._queue.take_withdrawn(node_id):
                await self._write(pb.ServerEvent(cancel=pb.Cancel(task_id=task_id)))
            # Check `ending` first: a replaced stream must not take its successor's task.
            while self._connection.ending is None and (task := self._queue.take(node_id)):
                await self._send(task)
            if self._connection.ending is not None:
                break
            await wake.wait()
        if self._connection.ending == FINISHED:
            await self._write(pb.ServerEvent(finish=pb.Finish(reason=FINISHED)))

    async def _send(self, task: Task) -> None:
        try:
            message = await asyncio.to_thread(self._journal.load, task.id)
        except FedmoreError as error:
            self._queue.fail(task.id, describe(error))
            return
        self._sent[task.id] = 0
        if await self._write(pb.ServerEvent(task=message)):
            letter: TaskHeader = task.content
            self._emit(Sent(self._member.name, task.id, letter.size or message.ByteSize()))

    async def _listen(self) -> None:
        while (event := await self._context.read()) is not grpc.aio.EOF:
            self._connections.seen(self._connection)
            kind = event.WhichOneof("event")
            if kind == "heartbeat" and self._heartbeats.allows():
                await self._compare(frozenset(event.heartbeat.tasks))
            elif kind == "progress":
                self._progress(event.progress)
            elif kind == "reply":
                await self._take(event.reply)
            elif kind == "leave":
                reason = plain(event.leave.reason, MAX_REASON)
                self._connections.leave(self._connection, reason)
                return
        if self._connection.ending is None and not self._connections.stopping:
            word = "%s: its stream ended without a word; it may come back"
            log.warning(word, self._member.name, extra=TOLD)

    async def _compare(self, in_hand: frozenset[str]) -> None:
        """Cancel the client's tasks that are no longer needed; send lost tasks again."""
        self._cancelled &= in_hand
        doubtful = [i for i in in_hand - self._cancelled if self._queue.task(i) is None]
        if doubtful:
            unwanted = await asyncio.to_thread(self._journal.unwanted, doubtful[:DOUBTFUL])
            for task_id in sorted(unwanted):
                await self._write(pb.ServerEvent(cancel=pb.Cancel(task_id=task_id)))
            self._cancelled |= unwanted
        self._look_for_lost(in_hand)
        if not in_hand:
            await self._tell_news()

    async def _tell_news(self) -> None:
        """Send a waiting client the progress of the plan, if it has changed."""
        news, (told, at) = self._news(), self._told
        if news is not None and (news != told or time.monotonic() > at + NEWS_EVERY_S):
            self._told = (news, time.monotonic())
            await self._write(pb.ServerEvent(news=news))

    def _look_for_lost(self, in_hand: frozenset[str]) -> None:
        for task_id in list(self._sent):
            if self._queue.task(task_id) is None:
                del self._sent[task_id]
            elif task_id in in_hand:
                self._sent[task_id] = 0
            elif (missed := self._sent[task_id] + 1) < MISSED:
                self._sent[task_id] = missed
            else:
                self._sent[task_id] = 0
                self._queue.again(task_id)

    def _progress(self, message: pb.Progress) -> None:
        task = self._queue.task(message.task_id)
        if task is None or task.node_id != self._member.node_id or not self._pace.allows():
            return
        letter: TaskHeader = task.content
        event = Progress(
            name=self._member.name,
            stage=letter.stage,
            round=letter.round,
            step=message.step,
            steps=message.steps,
            loss=message.loss,
            tokens_per_s=message.tokens_per_s,
            tokens=message.tokens,
        )
        self._emit(event)

    async def _take(self, reply: pb.Reply) -> None:
        """Acknowledge a reply after it is on disk or not needed.

        Otherwise the client repeats it.
        """
        name, task_id = self._member.name, reply.task_id
        try:
            verdict = await asyncio.to_thread(self._journal.take, self._member.node_id, reply)
        except FedmoreError as error:
            log.error("a reply of %s cannot be kept: %s", name, error)
            self._emit(Refused(name, task_id, f"cannot be kept now: {describe(error)}"))
            return
        if verdict.fresh:
            self._queue.reply(task_id, self._journal.answer(task_id))
            if verdict.failure:
                failed = "%s: its task %s failed: %s"
                log.warning(failed, name, task_id[:12], verdict.failure, extra=TOLD)
            self._emit(Received(name, task_id, verdict.size, verdict.failure))
        elif verdict.refused:
            self._refusals.tell(name, "a reply", verdict.refused, task_id or "?")
        self._sent.pop(task_id, None)
        await self._write(pb.ServerEvent(taken=pb.Taken(task_id=task_id)))
