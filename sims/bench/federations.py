"""Starts real coordinators and clients for the bench as processes, with mutual TLS."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.create import create, new_config
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.invites import write_invite
from fedmore.experts.errors import RoundError
from fedmore.sims.engines.processes import (
    Child,
    Processes,
    free_port,
    quiet_environment,
    wait_for_port,
)

APP = "fedmore.sims.bench.echo"
HOST = "127.0.0.1"
POLL_S = 0.02


@dataclass
class Echo:
    """A federation with the app `echo`: `rounds` rounds of `down` and `up` bytes per client.

    The coordinator waits for `expected` clients if that is more than `clients`.
    """

    directory: Path
    rounds: int
    clients: int = 2
    down: int = 0
    up: int = 0
    expected: int = 0
    heartbeat_s: float = 2.0
    app: str = APP
    port: int = field(default_factory=lambda: free_port(HOST))

    @property
    def out(self) -> Path:
        """The file to which the app writes its rounds."""
        return self.directory.parent / f"{self.directory.name}.jsonl"

    @property
    def run_config(self) -> dict[str, bool | float | int | str]:
        """The app's run config."""
        return {
            "out": str(self.out),
            "clients": self.clients,
            "rounds": self.rounds,
            "down": self.down,
            "up": self.up,
        }

    def create(self) -> FederationConfig:
        """Create the federation's folder and an invite for every client."""
        config = new_config(
            name="bench",
            base="",
            clients=max(self.clients, self.expected),
            port=self.port,
            app=f"{self.app}:server_app",
            run_config=self.run_config,
        )
        server = replace(
            config.server, heartbeat_s=self.heartbeat_s, heartbeat_timeout_s=5 * self.heartbeat_s
        )
        made = create(self.directory, replace(config, server=server))
        for index in range(self.clients):
            write_invite(self.directory, f"c{index}", self.directory / f"c{index}.json")
        return made

    def rows(self) -> list[dict[str, Any]]:
        """Read the rounds so far."""
        text = self.out.read_text(encoding="utf-8") if self.out.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def start_coordinator(processes: Processes, echo: Echo) -> Child:
    """Run `coordinator start`; returns once it listens."""
    command = [sys.executable, "-m", "fedmore.coordinator.cli.main", "start", str(echo.directory)]
    child = processes.start("the coordinator", command, echo.directory / "coordinator.log")
    wait_for_port(child, HOST, echo.port)
    return child


def start_client(processes: Processes, echo: Echo, index: int) -> Child:
    """Start `client join --app` for one client."""
    invite, state = echo.directory / f"c{index}.json", echo.directory / f"c{index}"
    command = [sys.executable, "-m", "fedmore.client.cli.main", "join", str(invite)]
    command += ["--app", f"{echo.app}:client_app", "--state", str(state)]
    return processes.start(f"client {index}", command, echo.directory / f"c{index}.log")


@contextmanager
def running(echo: Echo) -> Iterator[tuple[Processes, Child]]:
    """Run the coordinator and all clients; they are ended with the block."""
    echo.create()
    with Processes(quiet_environment()) as processes:
        coordinator = start_coordinator(processes, echo)
        for index in range(echo.clients):
            start_client(processes, echo, index)
        yield processes, coordinator


def wait_until(echo: Echo, processes: Processes, rounds: int, timeout_s: float = 300.0) -> None:
    """Wait for `rounds` rounds; raises `RoundError` if a program fails or the time is over."""
    deadline = time.monotonic() + timeout_s
    while len(echo.rows()) < rounds:
        for child in processes.children:
            if child.process.poll():
                raise RoundError(f"{child.name} ended early:\n{child.tail()}")
        if time.monotonic() > deadline:
            raise RoundError(f"{len(echo.rows())} of {rounds} rounds within {timeout_s:g} s")
        time.sleep(POLL_S)


def finish(processes: Processes) -> None:
    """Wait until all programs have ended by themselves; raises `RoundError` if one failed."""
    processes.wait(60.0)
    for child in processes.children:
        if child.process.poll() != 0:
            raise RoundError(f"{child.name} did not end well:\n{child.tail()}")


def traffic(echo: Echo) -> Mapping[str, tuple[int, int]]:
    """Bytes from and to every client, counted at the coordinator's sockets."""
    with open_federation(echo.directory) as federation:
        return {m.name: (m.bytes_up, m.bytes_down) for m in federation.registry.members()}
