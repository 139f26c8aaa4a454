"""Events leave the server's loop through here."""

import logging
import queue
import threading
from collections.abc import Callable

from fedmore.strategies.events import Event

log = logging.getLogger(__name__)


class Dispatcher:
    """Calls the listener from one thread, so that it may block and never holds up the loop."""

    def __init__(self, listener: Callable[[Event], None]) -> None:
        self._listener = listener
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._listener(event)
            except Exception:
                log.exception("the listener failed on %s", event)

    def put(self, event: Event) -> None:
        """Queue an event; any thread."""
        self._queue.put(event)

    def close(self) -> None:
        """Deliver what is queued, then end."""
        self._queue.put(None)
        self._thread.join()
