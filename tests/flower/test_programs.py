"""`coordinator start --app` and `client join --app`: somebody else's Flower app in our programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from direct import DirectGrid
from running import eventually
from stock import NODES, client_app, every_case, frozen, hexed, run_case

from fedmore.coordinator.folder.invites import write_invite
from fedmore.sims.engines.processes import Processes, free_port, quiet_environment

HERE = Path(__file__).parent


class Programs:
    """A federation of the stock app: real processes, gRPC, mutual TLS."""

    def __init__(self, folder, processes, environment):
        self.folder, self.processes, self.environment = folder, processes, environment
        self.federation = folder / "federation"
        self.out, self.gate = folder / "out.json", folder / "gate"

    def call(self, module, *arguments):
        command = [sys.executable, "-m", f"fedmore.{module}", *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, cwd=HERE, capture_output=True, text=True, timeout=60
        )

    def begin(self, module, name, *arguments):
        command = [sys.executable, "-m", f"fedmore.{module}", *map(str, arguments)]
        return self.processes.start(name, command, self.folder / f"{name}.log")

    def init(self, *arguments, app="stock:server_app", clients=NODES):
        made = self.call(
            "coordinator", "init", self.federation, "--app", app, "--clients", clients,
            "--port", free_port("127.0.0.1"),
            "--run-config", f"out={self.out}", *arguments,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr

    def coordinate(self, name="coordinator", *arguments):
        return self.begin("coordinator", name, "start", self.federation, *arguments)

    def join(self, node, *config, app="stock:client_app"):
        invite = self.folder / f"{node}.json"
        write_invite(self.federation, f"n{node}", invite)
        said = [f"partition-id={node}", f"log={self.log(node)}", *config]
        options = [part for pair in said for part in ("--node-config", pair)]
        return self.begin(
            "client", f"client-{node}", "join", invite, "--app", app,
            "--state", self.folder / f"state-{node}", *options,
        )  # fmt: skip

    def log(self, node):
        return self.folder / f"done-{node}"

    def done(self, node):
        return self.log(node).read_text().splitlines() if self.log(node).exists() else []

    def wait(self, child, timeout=120):
        assert child.process.wait(timeout) == 0, child.tail(40)


@pytest.fixture
def programs(tmp_path):
    environment = quiet_environment() | {
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}/.editable"
    }
    with Processes(environment) as processes:
        yield Programs(tmp_path, processes, environment)


@pytest.mark.slow
def test_a_stock_app_gives_the_same_over_grpc(programs):
    programs.init()
    wrong = programs.call("coordinator", "start", programs.federation, "--app", "nowhere:app")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "there is no module 'nowhere' in" in wrong.stderr
    coordinator = programs.coordinate()
    clients = [programs.join(node) for node in range(NODES)]
    programs.wait(coordinator)
    for client in clients:
        programs.wait(client, 20)
    found = json.loads(programs.out.read_text())
    expected = every_case(DirectGrid(client_app, NODES))
    assert [case for case in expected if expected[case] != found[case]] == []
    assert "aggregate_train: Received 3 results and 1 failures" in coordinator.tail(4000)
    assert "Krum" in (programs.federation / "app.log").read_text()
    assert (programs.federation / "app-state.bin").stat().st_size


@pytest.mark.slow
def test_a_killed_coordinator_replays_the_app_and_no_work_is_done_twice(programs):
    programs.init("--run-config", "case=FedAvg")
    coordinator = programs.coordinate()
    gate = f"gate={programs.gate}"
    clients = [programs.join(node, *([gate] if node == 3 else [])) for node in range(NODES)]
    eventually(lambda: all("round 2" in programs.done(node) for node in range(NODES)))
    coordinator.process.kill()
    coordinator.process.wait()
    again = programs.coordinate("again")
    programs.gate.touch()
    programs.wait(again)
    for client in clients:
        programs.wait(client, 20)
    expected = hexed(frozen(run_case(DirectGrid(client_app, NODES), "FedAvg")))
    assert json.loads(programs.out.read_text()) == {"FedAvg": expected}
    assert [programs.done(node) for node in range(NODES)] == [["round 1", "round 2"]] * NODES
