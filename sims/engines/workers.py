"""Runs the clients of engine `local` in threads.

Tasks and replies are packed and unpacked as for the wire, so each end gets the same values as over
a network.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from flwr.app import Context, Message

from fedmore.client.training.progress import reporting, throttled
from fedmore.coordinator.tasks.queue import Task, TaskQueue
from fedmore.protos.wire.flower_compat import CLIENT_RAISED
from fedmore.protos.wire.messages import (
    PackedReply,
    pack_failure,
    pack_reply,
    pack_task,
    unpack_reply,
    unpack_task,
)
from fedmore.protos.wire.status import describe
from fedmore.strategies.events import Event, Received, Report, Sent, Traffic, progress_of

Handler = Callable[[Message, Context], Message]


@dataclass
class Node:
    """One client: its name and Flower context; the lock lets one of its tasks run at a time."""

    name: str
    context: Context
    lock: threading.Lock = field(default_factory=threading.Lock)


class Workers:
    """Takes tasks from the queue, lets `handler` do them, and puts back the replies.

    At most `threads` tasks run at a time. The nodes are connected inside the `with` block.
    """

    def __init__(
        self,
        queue: TaskQueue,
        nodes: Mapping[int, Node],
        handler: Handler,
        on_event: Callable[[Event], None],
        threads: int = 1,
    ) -> None:
        self._queue = queue
        self._nodes = nodes
        self._handler = handler
        self._on_event = on_event
        self._over = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="client")

    def __enter__(self) -> "Workers":
        self._queue.subscribe(self._begin)
        for node_id in self._nodes:
            self._queue.join(node_id)
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for node_id in self._nodes:
            self._queue.leave(node_id, "the run is over")
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, node_id: int) -> None:
        """Schedule the waiting tasks of a node, unless the run is over."""
        if not self._over:
            self._pool.submit(self._work, node_id)

    def _work(self, node_id: int) -> None:
        node = self._nodes[node_id]
        with node.lock:
            task = self._queue.take(node_id)
            if task is None:
                return
            try:
                self._do(node, task)
            except (
                Exception
            ) as error:  # the future is never read, so a lost task would block the run
                self._queue.fail(task.id, describe(error))

    def _do(self, node: Node, task: Task) -> None:
        message: Message = task.content
        packed = pack_task(message)
        task_id = packed.message.task_id
        self._on_event(Sent(node.name, task_id, packed.size))
        reply = self._answer(node, unpack_task(packed.message, lambda d, _: packed.blobs[d]))
        self._on_event(Traffic(node.name, bytes_up=reply.size, bytes_down=packed.size))
        answer = unpack_reply(reply.message, message, lambda d, _: reply.blobs[d])
        failure = (answer.error.reason or "failed") if answer.has_error() else ""
        self._on_event(Received(node.name, task_id, reply.size, failure))
        self._queue.reply(task_id, answer)

    def _answer(self, node: Node, task: Message) -> PackedReply:
        def tell(report: Report) -> None:
            self._on_event(progress_of(node.name, task, report))

        task_id = task.metadata.message_id
        try:
            with reporting(throttled(tell)):
                return pack_reply(task_id, self._handler(task, node.context))
        except Exception as error:  # as in a real client, it fails only this task
            return pack_failure(task_id, describe(error), CLIENT_RAISED)
