"""The cases through the real programs: what a coordinator and its owners come to."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomlkit

from fedmore.client.ledger import read_ledger
from fedmore.coordinator.invites import write_invite
from fedmore.sims.engines.processes import Processes, free_port, quiet_environment
from fedmore.sims.tiny import make_tiny_base

CASES = Path(__file__).parent / "federations"
FILES = Path(__file__).parents[1] / "experts" / "cases"
ENVIRONMENT = quiet_environment() | {"PYTHONPATH": str(Path(__file__).parents[2] / ".editable")}
LITTLE = {
    "min_tokens": 1, "min_passages": 1, "min_embedding_tokens": 1, "tokens_per_direction": 0,
    "max_spectral_ratio": 1e6, "embedding_noise": 0.0,
}  # fmt: skip
SMALL = {"steps": 4, "batch_size": 4, "sequence_length": 128, "rounds": 2, "threads": 1}
WAIT_S = 420


def command(module, *arguments):
    return [sys.executable, "-m", f"fedmore.{module}.cli", *map(str, arguments)]


def call(module, *arguments):
    return subprocess.run(
        command(module, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT_S
    )


def eventually(condition, within_s=WAIT_S):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


class Case:
    """A federation of real programs over a tiny base; `stage` changes its stage of experts."""

    def __init__(self, folder, processes, domains, stage=SMALL):
        self.folder, self.processes, self.directory = folder, processes, folder / "federation"
        base = make_tiny_base(folder / "base")
        self.base = base
        names = [part for domain in domains for part in ("--domain", domain)]
        made = call(
            "coordinator", "init", self.directory, "--base", base, *names, "--clients",
            len(domains), "--port", free_port("127.0.0.1"),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        path = self.directory / "federation.toml"
        table = tomlkit.parse(path.read_text())
        for each in table["stages"]:
            for name, value in (SMALL | (stage if each["kind"] == "experts" else {})).items():
                each[name] = value if name != "rounds" or each["kind"] != "router" else 1
        table["stages"] = [each for each in table["stages"] if each["kind"] != "language"]
        path.write_text(tomlkit.dumps(table))

    def arguments(self, domain, data, policy=None):
        invite = self.folder / f"{domain}.json"
        if not invite.exists():
            write_invite(self.directory, domain, invite)
        given = []
        if policy:
            (self.folder / "owner.toml").write_text(tomlkit.dumps(policy))
            given = ["--policy", self.folder / "owner.toml"]
        return [
            "join", invite, "--data", data, "--domain", domain, "--rank", 4, "--yes", "--cpu",
            "--base", self.base, "--state", self.folder / domain, *given,
        ]  # fmt: skip

    def start(self):
        return self.begin("coordinator", "start", self.directory)

    def join(self, domain, data, policy=None):
        return self.begin("client", *self.arguments(domain, data, policy), name=domain)

    def begin(self, module, *arguments, name="coordinator"):
        log = self.folder / f"{name}.log"
        return self.processes.start(name, command(module, *arguments), log)

    def answered(self, domain):
        path = self.folder / domain / "answered.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def finished(self, *children):
        for child in children:
            assert child.process.wait(WAIT_S) == 0, child.tail(40)
            assert "Traceback" not in child.tail(10_000)
        found = call("coordinator", "experts", self.directory, "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)


@pytest.fixture
def processes():
    with Processes(ENVIRONMENT) as running:
        yield running


def allowed(state):
    return [line for line in read_ledger(state).lines if line["call"] == "allowed"]


@pytest.mark.slow
def test_one_owner_with_one_long_document(tmp_path, processes):
    """At the owner's defaults: what it embeds is above its own floors."""
    case = Case(tmp_path, processes, ["novel"])
    found = case.finished(case.start(), case.join("novel", CASES / "01-book"))
    assert "novel" in json.dumps(found)
    lines = allowed(tmp_path / "novel")
    (embedding,) = [line for line in lines if line["type"] == "train.embed"]
    assert embedding["values"]["metrics/documents"] == 1
    assert embedding["values"]["metrics/tokens"] >= 2048
    assert [line["type"] for line in lines].count("train") == 2


@pytest.mark.slow
def test_an_owner_is_held_up_and_late_answers_count_nothing(tmp_path, processes):
    stage = tomlkit.parse((CASES / "20-staleness-zero" / "stage.toml").read_text())
    case = Case(tmp_path, processes, ["novel", "law"], SMALL | dict(stage))
    coordinator = case.start()
    novel, law = (case.join(name, CASES / "01-book") for name in ("novel", "law"))
    eventually(lambda: "experts/1" in case.answered("law"))
    law.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: "experts/2" in case.answered("novel"))
    finally:
        law.process.send_signal(signal.SIGCONT)
    found = json.dumps(case.finished(coordinator, novel, law))
    assert "novel" in found
    assert "law" in found


REFUSED = {
    "14-short": r"tokens, and nothing leaves that is made of fewer than 1024",
    "03-csv-shift": r"a.csv:2: 4 fields, but the header has 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_take_part_is_refused_at_join(tmp_path, processes, name):
    """In one line, and the invite is good for another try."""
    case = Case(tmp_path, processes, ["novel"])
    coordinator = case.start()
    refused = call("client", *case.arguments("novel", FILES / name))
    assert refused.returncode not in (0, 1)
    assert REFUSED[name] in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    case.finished(coordinator, case.join("novel", CASES / "01-book"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["04-parquet-bytes", "06-empty-shard"])
def test_files_as_people_have_them_take_part(tmp_path, processes, name):
    case = Case(tmp_path, processes, ["novel"])
    case.finished(case.start(), case.join("novel", FILES / name, LITTLE))
