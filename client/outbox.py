"""What the client says on one stream: events as they come, heartbeats in the silence between."""

import queue
from collections.abc import Iterator

from fedmore.protos import federation_pb2 as pb


class Outbox:
    """An iterator of events for gRPC to send; ends after `close`."""

    def __init__(self, hello: pb.Hello, heartbeat_s: float = 2.0) -> None:
        self.heartbeat_s = heartbeat_s
        self._queue: queue.SimpleQueue[pb.ClientEvent | None] = queue.SimpleQueue()
        self.put(pb.ClientEvent(hello=hello))

    def put(self, event: pb.ClientEvent) -> None:
        """Send `event` after those before it."""
        self._queue.put(event)

    def close(self) -> None:
        """Nothing more will be said."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[pb.ClientEvent]:
        return self

    def __next__(self) -> pb.ClientEvent:
        try:
            event = self._queue.get(timeout=self.heartbeat_s)
        except queue.Empty:
            return pb.ClientEvent(heartbeat=pb.Heartbeat())
        if event is None:
            raise StopIteration
        return event
