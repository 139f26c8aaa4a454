"""fedmore as a Flower App, on a SuperLink with two SuperNodes, gives what engine `local` gives."""

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from running import living_processes

from fedmore.coordinator.folder.create import create
from fedmore.coordinator.folder.federation import open_federation
from fedmore.sims.engines import local
from fedmore.sims.engines.local import agree
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.engines.processes import Processes, free_port, quiet_environment, wait_for_port
from fedmore.sims.scenarios.smoke import smoke

ROOT = Path(__file__).parents[2]
STAGE = {"kind": "experts", "rounds": 1, "steps": 2, "batch_size": 2, "sequence_length": 64}


def tiny():
    """Two owners of one domain, and nothing but that; every message costs a process."""
    whole = smoke()
    config = {
        "federation": {"name": "tiny", "clients": 2, "domains": ["kitchen"]},
        "base": {"dtype": "float32"},
        "stages": [{**STAGE, "codec": "sign1", "threads": 1}],
        "router": {"kind": "uniform"},
        "evaluation": {"documents": 1, "tokens": 32},
    }
    clients = whole.clients[:2]
    return replace(whole, config=config, clients=clients, evaluation={"kitchen": "kitchen"})


def digests(directory):
    with open_federation(directory) as federation:
        return {(v.name, v.round): v.digest for v in federation.registry.experts()}


def node_config(prepared, client):
    agree(prepared, client)
    said = {
        "name": client.name,
        "domain": client.target,
        "rank": client.rank,
        "data": str(prepared.data(client)),
        "base": prepared.config.base.model,
        "dtype": "float32",
        "device": "cpu",
        "state": str(prepared.folder(client) / "state"),
        "policy": str(prepared.policy(client)),
    }
    return " ".join(f"{key}={json.dumps(value)}" for key, value in said.items())


@pytest.fixture
def flower(tmp_path):
    """Start one of Flower's programs; at the end none of them, nor of their children, is left."""
    folder = Path(sys.executable).parent
    environment = quiet_environment() | {
        "FLWR_HOME": str(tmp_path / "home"),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    }
    with Processes(environment) as processes:

        def start(name, program, *arguments):
            return processes.start(name, [str(folder / program), *arguments], tmp_path / name)

        yield start
    sessions = {child.process.pid for child in processes.children}
    deadline = time.monotonic() + 60
    while left := [pid for pid, session in living_processes() if session in sessions]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def app_folder(folder):
    """What `flwr run` takes of the repository."""
    folder.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_our_apps_on_a_superlink_give_what_engine_local_gives(tmp_path, flower):
    single, hosted = (prepare(tiny(), tmp_path / name, seed=6) for name in ("local", "hosted"))
    chosen = create(hosted.directory, hosted.config).base
    opener = f"opener={json.dumps(chosen.opener)} open-windows={json.dumps(chosen.open_windows)}"
    port = free_port("127.0.0.1")
    link = flower(
        "superlink", "flower-superlink", "--insecure", "--port", str(port),
        "--disable-runtime-dependency-installation",
    )  # fmt: skip
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(
        f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n', encoding="utf-8"
    )
    wait_for_port(link, "127.0.0.1", port)
    for client in hosted.scenario.clients:
        flower(
            client.name, "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}",
            "--port", str(free_port("127.0.0.1")), "--node-config", node_config(hosted, client),
        )  # fmt: skip
    run = flower(
        "run", "flwr", "run", str(app_folder(tmp_path / "app")), "here", "--stream",
        "--run-config", f"directory={json.dumps(str(hosted.directory))} {opener}",
    )  # fmt: skip
    local.run(single)  # meanwhile
    run.process.wait(timeout=300)

    assert "evaluated mixture" in run.tail(100), run.tail(40) + link.tail(40)
    assert digests(hosted.directory) == digests(single.directory)
    assert len(digests(hosted.directory)) == STAGE["rounds"]
    for client in hosted.scenario.clients:
        audit = hosted.folder(client) / "state" / "audit.jsonl"
        assert '"allowed"' in audit.read_text(encoding="utf-8")
