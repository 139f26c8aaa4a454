"""Bits that flip in a federation's files: a clean answer or one line, never anything else."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedmore.coordinator.cli import app
from fedmore.experts.errors import FedmoreError

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
FLIPS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


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
