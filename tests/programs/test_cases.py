"""Small inputs like real people's, through the real programs to the end of a federation."""

import json
import re
import signal
import tomllib
from pathlib import Path

import pytest
from command_lines import PATIENCE_S

from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.owner.policy import OwnerPolicy
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import EgressError
from fedmore.protos.wire.status import exit_code

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CASES = Path(__file__).parents[1] / "experts" / "reading" / "cases"
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


def test_with_staleness_zero_the_only_owner_late_leaves_its_expert_as_it_was(commands):
    """The second owner's process is stopped until the first round is over without it."""
    stage = tomllib.loads((CASES / "20-staleness-zero" / "stage.toml").read_text("utf-8"))
    commands.init("legal", "medical")
    commands.change("stages.0", **stage, batch_size=1, sequence_length=32)
    commands.change(
        "server", heartbeat_timeout_s=PATIENCE_S
    )  # who is stopped is late, and not gone
    coordinator = commands.start()
    commands.says(coordinator, "ready on")
    late = commands.join("late", "medical", commands.tiny / "garden" / "train.jsonl")
    prompt = commands.join("prompt", "legal", commands.tiny / "kitchen" / "train.jsonl")
    commands.says(coordinator, "late: step")
    late.signal(signal.SIGSTOP)
    commands.says(coordinator, "round 1 done")
    prompt.signal(signal.SIGSTOP)  # round 2 is open until the late answer has come
    late.signal(signal.SIGCONT)
    commands.eventually(lambda: answers(commands.folder / "late"))
    prompt.signal(signal.SIGCONT)
    commands.finish(coordinator, prompt, late)
    first, second, _ = rounds(commands, "experts")
    assert set(first["clients"]) == {"prompt"}
    assert second["clients"]["late"]["behind"] == 1
    assert second["experts"]["medical"]["aggregation_error"] == 0.0
    found = json.loads(commands.asks("experts", commands.directory, "--json"))
    ranks = {(e["name"], e["round"]): e["rank"] for e in found}
    assert ranks["legal", 2] > 0
    assert ranks.get(("medical", 2), 0) == 0
    for each in (coordinator, prompt, late):
        assert "Traceback" not in each.said


def answers(state):
    """How many times the client let an update out."""
    lines = read_ledger(state).lines
    return sum(line["call"] == "allowed" and line["type"] == "train" for line in lines)
