"""Starts, watches and ends the child processes of a run by their ids; none outlives the run."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fedmore.experts.errors import TransportError

GRACE_S = 10.0
POLL_S = 0.1


@dataclass(frozen=True)
class Child:
    """A started process; `log` gets its output, or the terminal if `log` is None."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path | None

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        if self.log is None:
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])


class Processes:
    """The children of one run; the end of the `with` block ends those that still run."""

    def __init__(self, environment: Mapping[str, str], grace_s: float = GRACE_S) -> None:
        self.children: list[Child] = []
        self._environment = dict(environment)
        self._grace_s = grace_s

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], log: Path | None = None) -> Child:
        """Start `command`; with a `log` it is detached from the terminal's input and Ctrl-C."""
        if log is None:
            process = subprocess.Popen(command, env=self._environment)
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def wait(self, timeout_s: float) -> None:
        """Wait until every child has ended, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and any(c.process.poll() is None for c in self.children):
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Ask every running child to end, and kill it if it has not ended in time.

        A second Ctrl-C ends the waiting, but children are still killed.
        """
        try:
            for child in self.children:
                _signal(child, signal.SIGTERM)
            self.wait(self._grace_s)
        finally:
            for child in self.children:
                _signal(child, signal.SIGKILL)
                child.process.wait()


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.poll() is None:
        child.process.send_signal(number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise as Ctrl-C does, so that children are ended too."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port(host: str) -> int:
    """Find a port on `host` on which no process listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for_port(child: Child, host: str, port: int, timeout_s: float = 60.0) -> None:
    """Wait until `child` accepts connections; raises `TransportError` if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while child.process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1.0):
                return
        except OSError:
            time.sleep(POLL_S)
    ended = child.process.poll()
    cause = "did not listen in time" if ended is None else f"ended with exit code {ended}"
    raise TransportError(f"{child.name} {cause} on {host}:{port}; its message is above")


def quiet_environment() -> dict[str, str]:
    """Copy the process's environment, but offline, without telemetry and with limited threads."""
    return {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }
