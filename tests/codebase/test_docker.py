"""No image can be built here, but the files can be held against the programs and each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from fedmore.client.cli.main import app as client
from fedmore.coordinator.cli.main import app as coordinator

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
LOCKS = sorted((DOCKER / "locks").glob("*.lock"))
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
PACKAGES = ("client", "coordinator", "experts", "kernels", "protos", "sims", "strategies")
APPS = {"coordinator": coordinator, "client": client}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_images_are_those_of_the_programs_and_run_unprivileged() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert stages == ["build", "tracked", "runtime", "coordinator", "client"]
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["fedmore"]
    assert re.findall(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, re.MULTILINE) == list(APPS)
    assert "PYTHONSAFEPATH=1" in DOCKERFILE


def test_every_install_is_by_hash_or_from_here() -> None:
    installs = re.findall(r"pip install (.*?)(?:\\|\n|&&)", DOCKERFILE)
    assert len(installs) == 4
    for install in installs:
        assert "--no-deps" in install
        assert ("--require-hashes" in install) != ("--no-index" in install)
    assert "index-url" not in DOCKERFILE


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_one_index_and_one_file_for_each_name(lock: Path) -> None:
    comment, index, *lines = lock.read_text(encoding="utf-8").splitlines()
    assert comment.startswith("#")
    assert re.fullmatch(r"--index-url https://\S+", index)
    assert lines
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ ]+ --hash=sha256:[0-9a-f]{64}", x) for x in lines)
    if "pytorch" in index:
        assert [line.partition("==")[0] for line in lines] == ["torch"]


def test_the_locks_have_the_versions_of_the_constraints_and_all_that_is_asked_for() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pins = {canonical(name): version for name, version in pins.items()}
    found = {
        name: version.partition("+")[0]
        for lock in LOCKS
        for name, version in re.findall(r"^(\S+)==(\S+)", lock.read_text(), re.MULTILINE)
    }
    differ = {n: v for n, v in found.items() if pins.get(n, v) != v}
    assert differ == {}, "run docker/make_locks.py"
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = table["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["coordinator"]]
    assert {canonical(Requirement(each).name) for each in asked} <= found.keys()


def test_no_package_is_in_two_locks_that_go_together() -> None:
    names = [
        line.partition("==")[0]
        for lock in LOCKS
        if lock.name != "torch-cuda.lock"
        for line in lock.read_text(encoding="utf-8").splitlines()
        if "==" in line
    ]
    assert len(names) == len(set(names))


def test_mlflow_is_not_in_what_a_client_installs() -> None:
    assert "mlflow" not in (DOCKER / "locks" / "client.lock").read_text(encoding="utf-8")


def test_the_build_sees_the_packages_and_nothing_private() -> None:
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[1] == "*"
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for line in copied for name in line.split()} == allowed
    assert set(PACKAGES) <= allowed


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_with_a_command_that_exists(name: str) -> None:
    service = SERVICES[name]
    target = service["build"]["target"]
    command, *arguments = service["command"]
    found: Any = typer.main.get_command(APPS[target])
    found.commands[command].make_context(command, list(arguments))
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert not service["user"].startswith(("0", "root"))
    assert service["networks"] == ["federation"]
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)


def test_the_base_image_can_be_named_by_digest_and_no_other_is_used() -> None:
    images = set(re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE))
    assert images == {"${PYTHON_IMAGE}", "build", "runtime"}
    for service in SERVICES.values():
        assert "FEDMORE_PYTHON_IMAGE" in service["build"]["args"]["PYTHON_IMAGE"]


def test_nothing_in_the_network_reaches_the_internet() -> None:
    assert COMPOSE["networks"] == {"federation": {"internal": True}}


def test_the_clients_image_has_no_mlflow() -> None:
    build, tracked = DOCKERFILE.split(" AS tracked")
    assert "coordinator.lock" not in build
    assert tracked.count("coordinator.lock") == 1
    [client] = re.findall(r"AS client\n(.*)", DOCKERFILE, re.DOTALL)
    assert "tracked" not in client


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_client_sees_its_own_folders_only(name: str) -> None:
    mounts = SERVICES[name]["volumes"]
    assert [m for m in mounts if m.startswith("./")] == [
        f"./invites/{name}.json:/invite.json:ro",
        f"./state/{name}:/state",
    ]
    assert all(m.endswith(":ro") for m in mounts if not m.startswith("./state/"))
