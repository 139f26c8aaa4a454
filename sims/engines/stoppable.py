"""A grid that ends with the run, although its own thread cannot be interrupted."""

import threading
import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmore.experts.errors import RoundError
from fedmore.protos.wire.flower_compat import RunType

POLL_S = 0.1


class Stoppable(Grid):
    """`grid`, until `stopped` is set: from then on every call raises `RoundError`."""

    def __init__(self, grid: Grid, stopped: threading.Event) -> None:
        self._inner = grid
        self._stopped = stopped

    @property
    def _grid(self) -> Grid:
        if self._stopped.is_set():
            raise RoundError("the run was stopped")
        return self._inner

    def set_run(self, run: RunType) -> None:
        """Pass the call on to the wrapped grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> RunType:
        """The run of the grid beneath."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's older way of `Message(content, dst_node_id, message_type)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Pass the call on to the wrapped grid."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass the call on to the wrapped grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass the call on to the wrapped grid."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The replies that come in `timeout` seconds."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            found = list(self.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            self._stopped.wait(POLL_S if waiting else 0)
        return replies
