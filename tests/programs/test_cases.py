"""Small inputs like real people's, through the real programs to the end of a federation."""

import json
import re
from pathlib import Path

import pytest
from command_lines import PATIENCE_S

from fedmore.client.owner_policy import OwnerPolicy
from fedmore.coordinator.registry import Registry
from fedmore.experts.errors import EgressError
from fedmore.protos.status import exit_code

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CASES = Path(__file__).parents[1] / "experts" / "cases"
FEW = {"rounds": 1, "steps": 4, "batch_size": 8}
FLOOR = OwnerPolicy().min_tokens


def rounds(commands, kind):
    """What the registry knows of each round of this kind."""
    with Registry.open(commands.directory) as registry:
        return [row.metrics for row in registry.rounds() if row.kind == kind]


def experts_of_mixture(commands):
    table = json.loads((commands.directory / "mixture" / "mixture.json").read_text("utf-8"))
    return {expert["name"] for expert in table["experts"]}


def test_one_long_document_takes_part_and_thirty_tiny_ones_are_refused_at_join(commands):
    """The embedding is of as much text as its floor wants, and nobody else's plan ends."""
    commands.init("book", "kitchen", "notes")
    commands.change("stages.0", **FEW)
    coordinator = commands.start()
    commands.says(coordinator, "ready on")
    short = commands.join("short", "notes", CASES / "14-short")
    assert short.process.wait(PATIENCE_S) == exit_code(EgressError("")), commands.story()
    (line,) = re.findall(r"^EgressError: .*", short.said, re.MULTILINE)
    assert f"200 tokens, and nothing leaves that is made of fewer than {FLOOR}" in line
    book = commands.join("book", "book", CASES / "01-book")
    kitchen = commands.join("kitchen", "kitchen", commands.tiny / "kitchen" / "train.jsonl")
    commands.finish(coordinator, book, kitchen)
    (embedded,) = rounds(commands, "router")
    assert embedded["clients"]["book"]["tokens"] >= OwnerPolicy().min_embedding_tokens
    assert experts_of_mixture(commands) == {"book", "kitchen"}
    status = json.loads(commands.asks("status", commands.directory, "--json"))
    assert status["phase"] == "finished"
    assert status["invited"] == ["short"]  # whose invite is as good as before
    assert status["left_out"] == {}
