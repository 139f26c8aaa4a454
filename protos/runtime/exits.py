"""Ends a program: an error becomes one line on stderr and the exit code of its class.

It imports nothing heavy, since `--help` passes through it.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.text import Text

from fedmore.experts.errors import FedmoreError
from fedmore.protos.system.terminal import console, guard_streams

DEBUG = "FEDMORE_DEBUG"
INTERRUPTED, TERMINATED = 130, 143
AGAIN_S = 2.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "USE_HUB_KERNELS": "NO",  # transformers would download and run code from the hub
    "GRPC_VERBOSITY": "NONE",  # its C core logs errors that we raise anyway
}
SPINS = "20000"
"""How often torch's idle threads (GNU OpenMP) look for work before they sleep: about 50 us.

OpenMP's default is 15 times as long, and occupies cores that our kernels' threads need.
"""


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception, so that a service manager's stop is handled like Ctrl-C."""


def debugging() -> bool:
    """Whether errors are shown with their traceback, by `--debug` or `FEDMORE_DEBUG=1`."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def run(program: Callable[[], object]) -> NoReturn:
    """Run a command line and exit with 0 or the code of the `FedmoreError` that ended it."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    guard_streams()
    try:
        program()
    except FedmoreError as error:
        fail(error)
    except SystemExit as stop:
        _leave(stop)
    sys.exit(0)


def fail(error: FedmoreError) -> NoReturn:
    """Print the error and exit with the code of its class."""
    from fedmore.protos.wire.status import describe, exit_code

    stderr = console(stderr=True, soft_wrap=True, highlight=False)
    if debugging():
        stderr.print_exception(show_locals=False)
    stderr.print(Text(describe(error), style="bold red"))
    sys.exit(exit_code(error))


@contextmanager
def interruptible(resume: str) -> Iterator[None]:
    """On Ctrl-C or SIGTERM inside, end the program with one line that says how to continue.

    Signals within `AGAIN_S` seconds, as from a key that is held down, are ignored while the program
    ends. A later one ends it at once.
    """
    stops = _Stops()
    # A shell starts background jobs with SIGINT ignored, and it stays ignored.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, stops) for number in numbers}
    try:
        yield
    except KeyboardInterrupt as stop:
        stops.over = True
        console(stderr=True, soft_wrap=True, highlight=False).print(
            Text(f"stopped; {resume}", style="yellow")
        )
        sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
    finally:
        for number, handler in previous.items():
            # The program is ending: a signal now must not change its exit code.
            signal.signal(number, signal.SIG_IGN if stops.over else handler)


class _Stops:
    """Handles the two signals: the first raises, and those close behind it are ignored."""

    def __init__(self) -> None:
        self.over = False
        self._raised_at = float("-inf")

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.over or now < self._raised_at + AGAIN_S:
            return
        self._raised_at = now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _leave(stop: SystemExit) -> NoReturn:
    """Exit.

    If a signal ended the program, further ones are ignored while it prints its last line.
    """
    if stop.code in (INTERRUPTED, TERMINATED):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    raise stop
