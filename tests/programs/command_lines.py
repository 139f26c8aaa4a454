"""`coordinator` and `client` on one federation over a tiny base, as people type them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomlkit
from programs import Program, call, command

from fedmore.sims.engines.processes import free_port

PATIENCE_S = 400.0
"""For one step of a test, on a machine that has much else to do."""


class Commands:
    """`coordinator` and `client` on one federation's folder; what runs ends with the test."""

    def __init__(self, folder: Path, tiny: Path) -> None:
        self.folder, self.tiny = folder, tiny
        self.directory = folder / "hub"
        self.running: list[Program] = []

    def init(self, *domains: str, clients: int = 2) -> None:
        """`coordinator init`, for these domains."""
        named = [part for domain in domains for part in ("--domain", domain)]
        call(
            "coordinator", "init", self.directory, "--base", self.tiny / "base", *named,
            "--clients", clients, "--port", free_port("127.0.0.1"),
            "--public-text", self.tiny / "plain" / "train.jsonl",
        )  # fmt: skip

    def change(self, section: str, **values: Any) -> None:
        """Write settings into `federation.toml`, as an editor does; "stages.0" is the first one."""
        file = self.directory / "federation.toml"
        table: Any = tomlkit.parse(file.read_text(encoding="utf-8"))
        place = table
        for part in section.split("."):
            place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
        place.update(values)
        file.write_text(tomlkit.dumps(table), encoding="utf-8")

    def start(self) -> Program:
        """`coordinator start`."""
        return self._begin("coordinator", "coordinator", "start", self.directory)

    def join(self, name: str, domain: str, data: Path, *options: object) -> Program:
        """`coordinator invite` and `client join --yes`, with the policy that is an owner's own."""
        invite = self.folder / f"{name}.json"
        call("coordinator", "invite", self.directory, name, "--out", invite)
        return self._begin(
            name, "client", "join", invite, "--domain", domain, "--data", data, "--yes", "--cpu",
            "--base", self.tiny / "base", "--rank", 4, "--threads", 1,
            "--state", self.folder / name, *options,
        )  # fmt: skip

    def asks(self, *arguments: object) -> str:
        """What a command of the coordinator prints."""
        return call("coordinator", *arguments)

    def eventually(self, condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
        """Poll until `condition` is true; fails with what all programs said if it does not."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.05)

    def says(self, program: Program, text: str) -> None:
        """Wait until a program that lives has said this."""

        def said() -> bool:
            assert program.process.poll() is None, self.story()
            return text in program.said

        self.eventually(said)

    def finish(self, *programs: Program) -> None:
        """Wait until these have ended well; fails at once when one has not."""

        def done() -> bool:
            codes = [each.process.poll() for each in programs]
            assert not any(codes), self.story()
            return None not in codes

        self.eventually(done)

    def story(self) -> str:
        """The end of what everybody said."""
        return "\n".join(f"--- {p.log.name}\n{p.said[-3000:]}" for p in self.running)

    def _begin(self, name: str, module: str, *arguments: object) -> Program:
        program = Program(command(module, *arguments), self.folder / f"{name}.log")
        self.running.append(program)
        return program.begin()
