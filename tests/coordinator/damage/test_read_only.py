"""A finished federation in a folder that may not be written to, also by root."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from thinning import rarer_slow

from fedmore.coordinator.store.registry import FILE, Registry

ROOT = os.geteuid() == 0
POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Modes of files hold root up only without these capabilities."""
pytestmark = pytest.mark.skipif(
    ROOT and not shutil.which("setpriv"), reason="root may write anywhere, and setpriv is not here"
)
COMMANDS = {
    "status": ("finished",),
    "experts": ("legal",),
    "evaluate": ("legal",),
    "generate": (),
}
OFTEN = ("status", "invite")
"""Some of the others load torch in a process of their own."""


@pytest.fixture
def frozen(finished):
    """The federation with its base and texts, about to be made read-only."""
    with tempfile.TemporaryDirectory(prefix="fedmore-") as folder:
        place = Path(shutil.copytree(finished.parent, Path(folder) / "all")) / "hub"
        config = place / "federation.toml"
        config.write_text(config.read_text().replace(str(finished.parent), str(place.parent)))
        yield place
        for path in (place.parent, *place.parent.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)


def freeze(place: Path) -> None:
    for path in (place.parent, *place.parent.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def ask(place: Path, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """A command as somebody whom the modes hold up."""
    paths = os.pathsep.join(part for part in sys.path if part)
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-m", "fedmore.coordinator.cli.main", command, str(place), *options]
    program = [*POWERLESS, *program] if ROOT else program
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=240)


def options(command: str) -> tuple[str, ...]:
    return ("--prompt", "The parties", "--max-tokens", "2") if command == "generate" else ()


@pytest.mark.parametrize("command", rarer_slow(COMMANDS, OFTEN))
def test_what_only_reads_works(frozen, command):
    freeze(frozen)
    done = ask(frozen, command, *options(command))
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in COMMANDS[command])
    if command == "evaluate":
        assert "evaluation.json: not written" in done.stderr
    assert not (frozen / f"{FILE}-wal").exists()


@pytest.mark.parametrize("command", rarer_slow(("start", "invite", "revoke", "assemble"), OFTEN))
def test_what_writes_says_that_it_may_not(frozen, command):
    freeze(frozen)
    more = {"invite": ("bob", "--out", "/dev/null"), "revoke": ("ada",)}
    done = ask(frozen, command, *more.get(command, ()))
    assert done.returncode not in (0, 1), done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr


def test_what_a_killed_coordinator_left_beside_the_file_is_read_too(frozen):
    """Its last transactions are in the file that SQLite would merge at the next start."""
    with Registry.open(frozen) as registry:
        registry.set_state("phase", "failed")
        aside = frozen.parent / "aside"
        aside.mkdir()
        for name in (FILE, f"{FILE}-wal"):
            shutil.copy(frozen / name, aside)
    for file in aside.iterdir():
        shutil.copy(file, frozen)
    assert (frozen / f"{FILE}-wal").stat().st_size > 0
    freeze(frozen)
    done = ask(frozen, "status")
    assert done.returncode == 0, done.stderr
    assert "demo: failed" in done.stdout
