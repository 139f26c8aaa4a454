"""`fedmore bench engine`: compares the transport with Flower's, with plain TCP and its payload.

Coordinator and clients are separate processes on loopback, with mutual TLS and the journal, as in a
real federation.
"""

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmore.sims.bench import superlink
from fedmore.sims.bench.copying import plain_copy
from fedmore.sims.bench.federations import (
    Echo,
    finish,
    running,
    start_coordinator,
    traffic,
    wait_until,
)

MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One measurement.

    `ratio` is how many times better ours is than the opponent, `goal` the target.

    Both are None without an opponent.
    """

    name: str
    ours: float
    opponent: float | None
    opponent_name: str | None
    unit: str
    ratio: float | None = None
    goal: float | None = None


Part = Callable[[Path, bool], Iterator[Row]]


def measure(part: str, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Measure one part; yields rows as tables. `quick` takes small sizes and few rounds."""
    from fedmore.sims.bench.scale import large_update, many_clients

    parts: dict[str, Part] = {
        "latency": latency,
        "overhead": overhead,
        "throughput": throughput,
        "restart": restart,
        "clients": many_clients,
        "large": large_update,
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for row in parts[part](Path(folder), quick):
            yield asdict(row)


def latency(folder: Path, quick: bool) -> Iterator[Row]:
    """Median time of an empty round of two clients, without the first, which includes start-up."""
    ours = _seconds(Echo(folder / "ours", rounds=10 if quick else 50))
    theirs = superlink.rounds(Echo(folder / "theirs", rounds=2 if quick else 5))[1:]
    us, them = statistics.median(ours[1:]), statistics.median(theirs)
    yield Row("empty round, 2 clients", us, them, superlink.name(), "s", them / us, goal=20.0)


def overhead(folder: Path, _quick: bool) -> Iterator[Row]:
    """Compare all bytes on the sockets, with handshakes and heartbeats, to those of payload."""
    for size in (1, 16):
        echo = Echo(folder / f"of-{size}", rounds=4, down=size * MIB, up=size * MIB)
        _seconds(echo)
        payload = size * MIB * echo.rounds * echo.clients
        both = list(traffic(echo).values())
        for way, counted in (("up", sum(u for u, _ in both)), ("down", sum(d for _, d in both))):
            name = f"bytes on the socket, {size} MiB {way}"
            ratio = payload / counted
            yield Row(name, counted, payload, "the payload alone", "bytes", ratio, goal=1 / 1.02)


def throughput(folder: Path, quick: bool) -> Iterator[Row]:
    """MiB/s from app to app, including disk, digests, TLS and journal."""
    size = (32 if quick else 256) * MIB
    copied = plain_copy(size)
    for way in ("up", "down"):
        echo = Echo(folder / way, rounds=4, clients=1, **{way: size})  # type: ignore[arg-type]
        ours = size / MIB / statistics.median(_seconds(echo)[1:])
        name = f"throughput, {size // MIB} MiB {way}"
        yield Row(name, ours, copied, "plain TCP copy", "MiB/s", ours / copied, goal=0.1)


def restart(folder: Path, _quick: bool) -> Iterator[Row]:
    """Seconds from `kill -9` of the coordinator until its next new round."""
    echo = Echo(folder / "restart", rounds=100_000)
    with running(echo) as (processes, coordinator):
        wait_until(echo, processes, 20)
        processes.children.remove(coordinator)
        os.kill(coordinator.process.pid, signal.SIGKILL)
        killed = time.time()
        coordinator.process.wait()
        last = max(row["round"] for row in echo.rows())
        start_coordinator(processes, echo)
        done = len(echo.rows())
        wait_until(echo, processes, done + last + 2)
        first = next(row for row in echo.rows() if row["round"] > last)
        began = first["at"] - first["seconds"]
    yield Row("coordinator killed, until the next round", began - killed, None, None, "s")


def _seconds(echo: Echo) -> list[float]:
    """Run the federation to its end; returns the seconds of every round."""
    with running(echo) as (processes, _):
        wait_until(echo, processes, echo.rounds)
        finish(processes)
    return [row["seconds"] for row in echo.rows()]
