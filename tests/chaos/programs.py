"""A federation of real processes on loopback, each client behind a proxy of its own.

Whoever wants to disturb it kills, stops and cuts here; a process that was killed is begun again.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit

from fedmore.coordinator.folder.invites import write_invite
from fedmore.sims.engines.processes import free_port, quiet_environment

HERE = Path(__file__).parent
ENVIRONMENT = quiet_environment() | {
    "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1] / '.editable'}",
    "OMP_NUM_THREADS": "1",
}


def command(module: str, *arguments: object) -> list[str]:
    """A program of ours, as a person calls it."""
    return [sys.executable, "-m", f"fedmore.{module}", *map(str, arguments)]


def call(module: str, *arguments: object) -> str:
    """Run a command of ours to its end; what it printed."""
    done = subprocess.run(
        command(module, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Program:
    """A process that can be ended and begun again; what it says is added to `log`."""

    command: Sequence[str]
    log: Path
    descriptors: tuple[int, int] | None = None
    process: "subprocess.Popen[bytes]" = field(init=False)
    lives: int = 0

    def begin(self) -> "Program":
        """A life of it."""
        self.lives += 1
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if self.descriptors:  # long before it has read its own code
                resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, self.descriptors)
        return self

    @property
    def said(self) -> str:
        """All that it said."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    @property
    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, to a process that lives."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def end(self) -> None:
        """Kill -9."""
        self.signal(signal.SIGKILL)
        self.process.wait()


class Federation:
    """The averaging app with `nodes` clients; `settings` go into federation.toml's server part."""

    def __init__(
        self, folder: Path, nodes: int, rounds: int, pause: float, **server: float
    ) -> None:
        self.folder, self.nodes, self.pause = folder, nodes, pause
        self.directory, self.out = folder / "federation", folder / "digests.json"
        self.port = free_port("127.0.0.1")
        self.programs: list[Program] = []
        config = (f"out={self.out}", f"rounds={rounds}", f"nodes={nodes}")
        given = [part for pair in config for part in ("--run-config", pair)]
        call(
            "coordinator", "init", self.directory, "--app", "averaging:server_app",
            "--clients", nodes, "--port", self.port, *given,
        )  # fmt: skip
        self._set(server)
        for node in range(nodes):
            write_invite(self.directory, f"n{node}", self.invite(node))

    def _set(self, server: dict[str, float]) -> None:
        path = self.directory / "federation.toml"
        table: Any = tomlkit.parse(path.read_text(encoding="utf-8"))
        table.setdefault("server", tomlkit.table()).update(server)
        path.write_text(tomlkit.dumps(table), encoding="utf-8")

    def invite(self, node: int) -> Path:
        """The invite file of a client."""
        return self.folder / f"n{node}.json"

    def coordinate(self, descriptors: tuple[int, int] | None = None) -> Program:
        """Begin the coordinator, maybe with another soft and hard limit of descriptors."""
        line = command("coordinator", "start", self.directory)
        return self._begin(Program(line, self.folder / "coordinator.log", descriptors))

    def join(self, node: int, port: int = 0) -> Program:
        """Begin a client; it reaches the coordinator at `port`."""
        invite = json.loads(self.invite(node).read_text(encoding="utf-8"))
        invite["address"] = f"127.0.0.1:{port or self.port}"
        path = self.folder / f"n{node}-here.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(invite), encoding="utf-8")
        line = command(
            "client", "join", path, "--app", "averaging:client_app", "--patience", 600,
            "--state", self.folder / f"state-{node}",
            "--node-config", f"shift={1.5 + 2 * node}", "--node-config", f"pause={self.pause}",
        )  # fmt: skip
        return self._begin(Program(line, self.folder / f"client-{node}.log"))

    def _begin(self, program: Program) -> Program:
        self.programs.append(program)
        return program.begin()

    def digests(self) -> list[str]:
        """What came of it; empty before the end."""
        return json.loads(self.out.read_text(encoding="utf-8")) if self.out.exists() else []

    def story(self) -> str:
        """The end of what everybody said."""
        return "\n".join(f"--- {p.log.name}\n{p.said[-3000:]}" for p in self.programs)

    def close(self) -> None:
        """End every process."""
        for program in self.programs:
            program.signal(signal.SIGCONT)
            program.end()
