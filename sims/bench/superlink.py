"""The opponent of the latency bench: the same app on Flower's SuperLink and SuperNodes."""

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from fedmore.experts.errors import RoundError
from fedmore.sims.bench.federations import APP, HOST, Echo, wait_until
from fedmore.sims.engines.processes import (
    Processes,
    free_port,
    quiet_environment,
    wait_for_port,
)

PROJECT = f"""\
[project]
name = "echo"
version = "1.0.0"
description = "Rounds that do nothing"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedmore"

[tool.flwr.app.components]
serverapp = "{APP}:server_app"
clientapp = "{APP}:client_app"

[tool.flwr.app.config]
out = ""
clients = 0
rounds = 0
down = 0
up = 0
"""


def name() -> str:
    """Its name in results."""
    return f"Flower {version('flwr')} SuperLink and SuperNode"


def rounds(echo: Echo, timeout_s: float = 400.0) -> list[float]:
    """Run `echo` on Flower's own engine; returns every round's seconds and ends all processes."""
    echo.directory.mkdir(parents=True)
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="flwr-") as home:
        environment = quiet_environment() | {
            "FLWR_HOME": home,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        }
        with Processes(environment) as processes:
            _start(processes, echo, programs, Path(home))
            wait_until(echo, _daemons(processes), echo.rounds, timeout_s)
    return [row["seconds"] for row in echo.rows()]


def _start(processes: Processes, echo: Echo, programs: Path, home: Path) -> None:
    logs, link = echo.directory, f"{HOST}:{echo.port}"
    app = echo.directory / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (app / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    connection = f'[superlink.here]\naddress = "{link}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection, encoding="utf-8")
    server = [str(programs / "flower-superlink"), "--insecure", "--port", str(echo.port)]
    server += ["--disable-runtime-dependency-installation"]
    started = processes.start("flower-superlink", server, logs / "superlink.log")
    wait_for_port(started, HOST, echo.port)
    for index in range(echo.clients):
        node = [str(programs / "flower-supernode"), "--insecure", "--superlink", link]
        node += ["--port", str(free_port(HOST))]
        processes.start("flower-supernode", node, logs / f"supernode-{index}.log")
    config = " ".join(f"{key}={json.dumps(value)}" for key, value in echo.run_config.items())
    command = [str(programs / "flwr"), "run", str(app), "here", "--run-config", config]
    ended = processes.start("flwr run", command, logs / "run.log")
    if ended.process.wait(120.0):
        raise RoundError(f"flwr run failed:\n{ended.tail()}")


def _daemons(processes: Processes) -> Processes:
    """The processes that are still running, without `flwr run`, which has ended."""
    processes.children = [child for child in processes.children if child.name != "flwr run"]
    return processes
