"""Measures the memory that a coordinator needs for many clients and for large updates."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from fedmore.experts.errors import RoundError
from fedmore.sims.bench.engine import MIB, Row
from fedmore.sims.bench.federations import Echo, start_coordinator
from fedmore.sims.bench.large import exchange
from fedmore.sims.engines.processes import Processes, quiet_environment

SETTLE_S = 5.0
EACH = 125
"""Most clients in one process of the swarm; with more, its threads starve each other."""
Swarm = Callable[..., AbstractContextManager[Callable[[], float]]]


def many_clients(folder: Path, quick: bool) -> Iterator[Row]:
    """Measure a waiting coordinator's memory with idle clients, then with simultaneous uploads."""
    idle, uploads, size = (100, 20, MIB) if quick else (1000, 200, 4 * MIB)
    with waiting(folder / "idle", idle) as (pid, swarm):
        before = memory(pid)
        with swarm("idle") as leave:
            time.sleep(SETTLE_S)  # until the memory of the handshakes is released
            each = (memory(pid) - before) / idle / 1024
            leave()  # raises if a client was disconnected before
    yield Row(f"memory per connected client, {idle} idle", each, None, None, "KiB")
    with waiting(folder / "uploads", uploads, more=0) as (pid, swarm):
        before = memory(pid)
        with swarm("upload", str(size)) as work:
            seconds = work()
        extra = (memory(pid, "VmHWM") - before) / MIB
    total = uploads * size / MIB
    name = f"{uploads} uploads of {size // MIB} MiB at once"
    yield Row(name, total / seconds, None, None, "MiB/s")
    yield Row(f"coordinator's memory for {name}", extra, None, None, "MiB")


def large_update(folder: Path, quick: bool) -> Iterator[Row]:
    """Measure one update above the largest message size: MiB/s, and memory beyond the payload."""
    found = exchange(folder, (64 if quick else 2560) * MIB)
    name = f"{found.size // MIB} MiB"
    for way, seconds in (("down", found.down_s), ("up", found.up_s)):
        yield Row(
            f"{name} {way}, from file to file", found.size / MIB / seconds, None, None, "MiB/s"
        )
    for side, extra in (("coordinator", found.coordinator_extra), ("client", found.client_extra)):
        yield Row(f"the {side}'s memory for {name} either way", extra / MIB, None, None, "MiB")


@contextmanager
def waiting(folder: Path, clients: int, more: int = 1) -> Iterator[tuple[int, Swarm]]:
    """Start a coordinator that waits for `more` clients.

    Yields its process id and a swarm starter.
    """
    # With heartbeats of 2 s, the few processes that simulate all clients would be busy with them.
    echo = Echo(folder, rounds=1, clients=clients, expected=clients + more, heartbeat_s=20.0)
    echo.create()
    with Processes(quiet_environment()) as processes:
        coordinator = start_coordinator(processes, echo)
        yield coordinator.process.pid, lambda *work: swarming(folder, clients, *work)


@contextmanager
def swarming(folder: Path, clients: int, kind: str, *more: str) -> Iterator[Callable[[], float]]:
    """Start the swarm; yields a function that lets it work and returns the seconds taken."""
    with ExitStack() as stack:
        parts = []
        for first in range(0, clients, EACH):
            share = (str(first), str(min(first + EACH, clients)))
            parts.append(stack.enter_context(_part(kind, str(folder), *share, *more)))

        def go(word: str = "done") -> float:
            began = time.perf_counter()
            for part in parts:
                if part.stdin:
                    part.stdin.write("\n")
                    part.stdin.flush()
            for part in parts:
                _expect(part, word)
            return time.perf_counter() - began

        if kind == "upload":
            go("asked")
        yield go


@contextmanager
def _part(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start one process of the swarm and wait until it is ready; kill it with the block."""
    command = [sys.executable, "-m", "fedmore.sims.bench.swarm", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=quiet_environment(), stdin=pipe, stdout=pipe, text=True
    ) as child:
        try:
            _expect(child, "ready")
            yield child
        finally:
            child.kill()


def _expect(child: "subprocess.Popen[str]", word: str) -> None:
    line = child.stdout.readline() if child.stdout else ""
    if line.strip() != word:
        raise RoundError(f"the swarm said {line!r} where it should be {word}")


def memory(pid: int, key: str = "VmRSS") -> int:
    """Resident bytes of a process, or with VmHWM their peak."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(key))
