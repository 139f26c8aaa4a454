"""A grid that fails after the run was stopped, because its own thread cannot be interrupted."""

import threading
import time
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from fedmore.experts.errors import RoundError
from fedmore.strategies.rounds.delegating_grid import DelegatingGrid

POLL_S = 0.1


class Stoppable(DelegatingGrid):
    """Passes calls to `grid` until `stopped` is set; then every call raises `RoundError`."""

    def __init__(self, grid: Grid, stopped: threading.Event) -> None:
        super().__init__(grid)
        self._stopped = stopped

    @property
    def grid(self) -> Grid:
        """The wrapped grid; raises `RoundError` after the run was stopped."""
        if self._stopped.is_set():
            raise RoundError("the run was stopped")
        return super().grid

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that arrive within `timeout` seconds."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            found = list(self.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            self._stopped.wait(POLL_S if waiting else 0)
        return replies
