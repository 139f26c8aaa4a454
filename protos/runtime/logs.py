"""A program's log file beside its state, with times and a limited size."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedmore.protos.system.files import PRIVATE
from fedmore.protos.system.terminal import LineFormatter

ROOT = "fedmore"
SIZE, FILES = 4 << 20, 3
"""Bytes of one file, and number of earlier files that are kept."""

LIBRARIES = ("grpc", "asyncio")

TOLD = {"told": True}
"""`extra` of a record whose event the operator sees anyway, so it goes only to the file."""


@contextmanager
def logged(path: Path) -> Iterator[logging.Logger]:
    """Write our log records from INFO on to the private file at `path` as well.

    Warnings still go to stderr, except those marked `TOLD`.
    """
    path.touch(mode=PRIVATE)
    file = RotatingFileHandler(path, maxBytes=SIZE, backupCount=FILES, encoding="utf-8")
    form = LineFormatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    file.setFormatter(form)
    root, stderr = logging.getLogger(ROOT), _stderr()
    handlers = [file, stderr]
    level = root.level
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        with _kept_from_people(file):
            yield root
    finally:
        for handler in handlers:
            root.removeHandler(handler)
        root.setLevel(level)
        file.close()


@contextmanager
def _kept_from_people(file: logging.Handler) -> Iterator[None]:
    """Send the log records of gRPC and asyncio only to the file.

    Cancelled calls are dropped, since every stop cancels calls.
    """
    file.addFilter(_is_no_cancellation)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(file)
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(file)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


def _stderr() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: not getattr(record, "told", False))
    return handler


def also(log: logging.Logger, say: Callable[[str], None]) -> Callable[[str], None]:
    """Make a `say` that also logs its text."""

    def both(text: str) -> None:
        log.info("%s", text)
        say(text)

    return both
