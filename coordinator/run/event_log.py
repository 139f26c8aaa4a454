"""What the transport tells is written down: who came and went, and what was refused to whom."""

import logging
from dataclasses import asdict

from fedmore.coordinator.monitor.event_lines import line
from fedmore.coordinator.store.registry import Registry
from fedmore.strategies.events import Event, Joined, Left, Refused

log = logging.getLogger(__name__)


def log_event(registry: Registry, event: Event) -> None:
    """Write a row of the registry's events, and a line of the log for members who come or leave."""
    if isinstance(event, Joined | Left | Refused):
        payload = {k: v for k, v in asdict(event).items() if k != "name"}
        registry.add_event(type(event).__name__.lower(), event.name, payload)
    if isinstance(event, Joined | Left):
        log.info("%s", line(event))
