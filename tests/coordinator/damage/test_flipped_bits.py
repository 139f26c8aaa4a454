"""Bits that flip in a federation's files: a clean answer or one line, never anything else."""

import random
import shutil
from pathlib import Path

import pytest
from thinning import rarer_slow
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import FedmoreError, RegistryError

COMMANDS = {
    "status": (),
    "experts": (),
    "generate": ("--prompt", "The parties", "--max-tokens", "2"),
    "evaluate": (),
    "start": (),
}
FILES = {
    "the registry": "registry.db",
    "a blob": "blobs/??/*",
    "the store's id": "blobs/registry-id",
    "the mixture": "mixture/mixture.json",
    "its router": "mixture/router.safetensors",
    "its expert": "mixture/experts/legal.safetensors",
    "the scores": "evaluation.json",
    "the configuration": "federation.toml",
    "a certificate": "tls/ca.pem",
    "a key": "tls/operator.key",
}
MEANT_TO_BE_EDITED = ("federation.toml",)
"""What stands in it is the operator's word, so that another word is no damage."""
FLIPS = rarer_slow(range(5), (1,))


def ask(directory: Path, command: str) -> str:
    """What a command says, or the line that it ends with; anything else is raised."""
    result = CliRunner().invoke(app, [command, str(directory), *COMMANDS[command]])
    if isinstance(result.exception, FedmoreError):
        said = str(result.exception)
        assert "\n" not in said.strip()
        return f"refused: {said}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return "".join(result.stdout.split()).replace(str(directory), "HUB")  # however it is wrapped


@pytest.fixture(scope="module")
def clean(finished, tmp_path_factory):
    """What every command says of the federation as it is."""
    hub = Path(shutil.copytree(finished, tmp_path_factory.mktemp("clean") / "hub"))
    said = {command: ask(hub, command) for command in COMMANDS}
    assert not any(text.startswith("refused") for text in said.values()), said
    return said


def flip(file: Path, seed: int, bits: int) -> None:
    generator, data = random.Random(seed), bytearray(file.read_bytes())
    for _ in range(bits):
        place = generator.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8
    file.write_bytes(data)


@pytest.mark.parametrize("seed", FLIPS)
@pytest.mark.parametrize("what", FILES)
def test_flipped_bits_are_told_or_change_nothing(hub, clean, what, seed):
    [file, *_] = sorted(p for p in hub.glob(FILES[what]) if p.is_file())
    flip(file, seed, bits=1 if seed % 2 else 40)
    for command, wanted in clean.items():
        said = ask(hub, command)
        if not said.startswith("refused: ") and file.name not in MEANT_TO_BE_EDITED:
            assert said == wanted, (command, what, seed)


@pytest.mark.parametrize("what", ["the registry", "the mixture", "its router", "its expert"])
def test_what_is_told_says_what_to_do(hub, what):
    [file] = hub.glob(FILES[what])
    flip(file, 1, bits=400)
    said = ask(hub, "generate")
    assert said.startswith("refused: ")
    assert str(file) in said
    assert "restore the folder from a copy" in said or "`coordinator assemble" in said


@pytest.fixture
def killed(finished, tmp_path):
    """A copy of the folder while it is written to: what a kill at this moment leaves."""
    hub = Path(shutil.copytree(finished, tmp_path / "hub"))
    with Registry.open(hub) as registry:
        for number in range(5):
            registry.set_state("late", number)
        shutil.copytree(hub, tmp_path / "killed")
    return tmp_path / "killed"


def late(directory: Path) -> object:
    with Registry.open(directory, make=False) as registry:
        return registry.get_state("late")


def test_what_a_kill_leaves_is_whole(killed):
    assert (killed / "registry.db-wal").stat().st_size > 0
    assert late(killed) == 4


@pytest.mark.parametrize("bits", [1, 40])
@pytest.mark.parametrize("where", ["header", "first", "middle", "last"])
def test_no_change_is_lost_by_a_flipped_bit_in_the_log_without_a_word(killed, where, bits):
    """SQLite itself would take it for a torn write, and go on as if nothing had come after it."""
    file = killed / "registry.db-wal"
    data = file.read_bytes()
    parts = {
        "header": (0, 32), "first": (32, 4_000), "middle": (len(data) // 2, 4_000),
        "last": (len(data) - 4_000, 4_000),
    }  # fmt: skip
    start, length = parts[where]
    part = file.with_name("part")
    part.write_bytes(data[start : start + length])
    flip(part, 3, bits)
    file.write_bytes(data[:start] + part.read_bytes() + data[start + length :])
    with pytest.raises(RegistryError, match=r"of .* changes are lost: .* restore the folder from"):
        late(killed)
    assert ask(killed, "status").startswith("refused: "), "nor at the next try"


def test_a_log_that_is_gone_or_an_older_copy_are_told_too(killed, finished):
    (killed / "registry.db-wal").unlink()
    assert "changes are lost" in ask(killed, "status")
    shutil.copy(finished / "registry.db", killed)
    assert "an older copy" in ask(killed, "start")
    (killed / "registry.db-mark").unlink()
    assert not ask(killed, "status").startswith("refused"), "as the line has said"
    assert late(killed) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_file_that_sqlite_shares_between_processes_is_made_anew(killed, seed):
    flip(killed / "registry.db-shm", seed, bits=40)
    assert late(killed) == 4


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_mark_is_told(killed, seed):
    flip(killed / "registry.db-mark", seed, bits=1)
    said = ask(killed, "status")
    assert "registry.db-mark: damaged; if nothing else is, delete this file" in said


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "[" * 100_000, "{", "\x00"])
def test_a_recipe_that_is_no_object_is_damaged(hub, text):
    (hub / "mixture" / "mixture.json").write_text(text)
    assert "damaged" in ask(hub, "generate")
    assert "damaged" in ask(hub, "evaluate")


def test_one_value_of_the_registry_that_changed_is_found(hub):
    """SQLite itself sees nothing: the page is whole."""
    file = hub / "registry.db"
    data = file.read_bytes()
    assert data.count(b'"tokens": 5') == 1
    file.write_bytes(data.replace(b'"tokens": 5', b'"tokens": 7'))
    assert "table rounds is not as it was written" in ask(hub, "status")
