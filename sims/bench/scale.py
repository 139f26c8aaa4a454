"""Many clients, and large updates: what a coordinator needs for them."""

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
"""So many clients live in one process of the swarm: above, its threads starve each other."""
Swarm = Callable[..., AbstractContextManager[Callable[[], float]]]


def many_clients(folder: Path, quick: bool) -> Iterator[Row]:
    """Idle connections, then uploads at once, to one coordinator that waits for more clients."""
    idle, uploads, size = (100, 20, MIB) if quick else (1000, 200, 4 * MIB)
    with waiting(folder / "idle", idle) as (pid, swarm):
        before = memory(pid)
        with swarm("idle") as leave:
            time.sleep(SETTLE_S)  # what was needed for the handshakes alone is given back
            each = (memory(pid) - before) / idle / 1024
            leave()  # fails for a client that was no longer connected
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
    """One update that is larger than any message may be; memory beside the payload itself."""
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
    """A coordinator that waits for `more` clients yet: its id, and how to start the others."""
    # A heartbeat of 2 s from each would keep the processes busy that play them all.
    echo = Echo(folder, rounds=1, clients=clients, expected=clients + more, heartbeat_s=20.0)
    echo.create()
    with Processes(quiet_environment()) as processes:
        coordinator = start_coordinator(processes, echo)
        yield coordinator.process.pid, lambda *work: swarming(folder, clients, *work)


@contextmanager
def swarming(folder: Path, clients: int, kind: str, *more: str) -> Iterator[Callable[[], float]]:
    """The swarm, ready; call what is given to have it work, for the seconds that it took."""
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
    """One process of the swarm, ready; killed with the block."""
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
    """Resident bytes of a process, or with VmHWM its highest so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(key))
