"""Delivers events from the server's loop to a listener in another thread."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import count

from fedmore.strategies.events import Event, Progress, Traffic

log = logging.getLogger(__name__)
LIMIT = 10_000


class Dispatcher:
    """Calls the listener from one thread, so that it may block without blocking the loop.

    If the listener is slower than the events, newer progress of a client replaces what is queued,
    and its traffic is added up. Above `limit` queued events, further ones are dropped, with a
    warning and their number.
    """

    def __init__(self, listener: Callable[[Event], None], limit: int = LIMIT) -> None:
        self._listener = listener
        self._limit = limit
        self._waiting: OrderedDict[Hashable, Event] = OrderedDict()
        self._changed = threading.Condition()
        self._numbers = count()
        self._left_out = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Queue an event; may be called from any thread and never blocks."""
        with self._changed:
            key = self._key(event)
            earlier = self._waiting.get(key)
            if earlier is None and len(self._waiting) >= self._limit:
                self._left_out += 1
                return
            self._waiting[key] = _together(earlier, event)
            self._changed.notify()

    def close(self) -> None:
        """Deliver the queued events, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _key(self, event: Event) -> Hashable:
        if isinstance(event, Progress | Traffic):
            return type(event), event.name
        return next(self._numbers)

    def _run(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._listener(event)
            except Exception:
                log.exception("the listener failed on %s", event)

    def _next(self) -> Event | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._left_out:
                log.warning("too much happens at once: %d events were left out", self._left_out)
                self._left_out = 0
            return self._waiting.popitem(last=False)[1] if self._waiting else None


def _together(earlier: Event | None, event: Event) -> Event:
    if isinstance(earlier, Traffic) and isinstance(event, Traffic):
        up, down = earlier.bytes_up + event.bytes_up, earlier.bytes_down + event.bytes_down
        return Traffic(event.name, up, down)
    return event
