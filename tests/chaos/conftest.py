"""Real processes of a small federation, and hostile peers with certificates of theirs."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # `averaging` is a module that our programs load by name


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Call it with nodes, rounds and a pause: a federation whose processes end with the test."""
    from programs import Federation

    made: list[Federation] = []

    def make(nodes: int, rounds: int, pause: float, **server: float) -> Federation:
        made.append(Federation(tmp_path / str(len(made)), nodes, rounds, pause, **server))
        return made[-1]

    (tmp_path / "0").mkdir()
    yield make
    for each in made:
        each.close()
