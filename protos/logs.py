"""A program's own log: a file beside its state, with times, that does not grow without a limit."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedmore.protos.files import PRIVATE

ROOT = "fedmore"
SIZE, FILES = 4 << 20, 3
"""Bytes of one file, and how many earlier ones stay."""


@contextmanager
def logged(path: Path) -> Iterator[logging.Logger]:
    """What our code logs, from INFO on, also goes to the file at `path`, which is private.

    Warnings go to stderr as they do without.
    """
    path.touch(mode=PRIVATE)
    file = RotatingFileHandler(path, maxBytes=SIZE, backupCount=FILES, encoding="utf-8")
    form = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    form.converter = time.gmtime
    file.setFormatter(form)
    root, stderr = logging.getLogger(ROOT), logging.lastResort
    handlers = [file] if stderr is None else [file, stderr]
    level = root.level
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield root
    finally:
        for handler in handlers:
            root.removeHandler(handler)
        root.setLevel(level)
        file.close()


def also(log: logging.Logger, say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` that writes down, too, what it says."""

    def both(text: str) -> None:
        log.info("%s", text)
        say(text)

    return both
