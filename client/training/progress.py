"""How training reports its progress, without knowing the listener."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fedmore.strategies.events import Report

Sink = Callable[[Report], None]

_SINK: ContextVar[Sink | None] = ContextVar("fedmore_progress", default=None)


class CancelledError(Exception):
    """The task is no longer wanted; raised by `report` in the middle of the work."""


@contextmanager
def reporting(sink: Sink) -> Iterator[None]:
    """Give every `report` within to `sink`; a sink may raise `CancelledError` to end the work."""
    token = _SINK.set(sink)
    try:
        yield
    finally:
        _SINK.reset(token)


def report(step: int, steps: int, loss: float, tokens_per_s: float, tokens: int) -> None:
    """Step `step` of `steps` is done, at `loss` nats per token, after `tokens` tokens in all."""
    sink = _SINK.get()
    if sink is not None:
        sink(Report(step, steps, loss, tokens_per_s, tokens))


def throttled(
    sink: Sink, interval_s: float = 0.5, clock: Callable[[], float] = time.monotonic
) -> Sink:
    """`sink` at most once per `interval_s`, and always for the last step."""
    latest: float | None = None

    def forward(report: Report) -> None:
        nonlocal latest
        now = clock()
        if latest is None or now - latest >= interval_s or report.step >= report.steps:
            latest = now
            sink(report)

    return forward
