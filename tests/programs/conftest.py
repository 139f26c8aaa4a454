"""A federation over a tiny base, by the commands that an operator and the owners type."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "chaos")]  # of `programs`: processes that can be stopped


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, and with text that anybody may read."""
    from fedmore.sims.data.generated import generate_text
    from fedmore.sims.data.tiny_model import make_tiny_base

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_base(folder / "base")
    for name in ("plain", "kitchen", "garden"):
        generate_text(name, folder / name, 120)
    return folder


@pytest.fixture
def commands(tmp_path: Path, tiny: Path) -> Iterator[Any]:
    """Its programs end with the test."""
    from command_lines import Commands

    made = Commands(tmp_path, tiny)
    yield made
    for each in made.running:
        each.end()
