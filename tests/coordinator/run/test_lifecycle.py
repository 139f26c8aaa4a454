import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from rich.console import Console

from fedmore.client.identity.enrolment import enrol
from fedmore.client.session.runner import Session
from fedmore.coordinator.folder.federation import is_running, open_federation, running_alone
from fedmore.coordinator.folder.invites import write_invite
from fedmore.coordinator.monitor import status as states
from fedmore.coordinator.run.lifecycle import Settings, start
from fedmore.coordinator.run.recovery import untold
from fedmore.experts.errors import BaseError, ConfigError, RoundError, TokenError, TransportError
from fedmore.protos.enrolment.invite import read_invite
from fedmore.protos.wire.flower_compat import make_reply

NAMES = ("amt", "klinik")


class Waiting(io.StringIO):
    """A console's file that calls `on_ready` when the coordinator says that it is ready."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        super().__init__()
        self._on_ready = on_ready

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.startswith("ready on"):
            self._on_ready()
        return written


@contextmanager
def clients(directory: Path, answer: Callable[[Message], Message]) -> Iterator[Waiting]:
    """Two clients in threads; they come as soon as the coordinator is ready."""
    threads: list[threading.Thread] = []

    def come() -> None:
        for name in NAMES:
            threads.append(threading.Thread(target=take_part, args=(directory, name, answer)))
            threads[-1].start()

    yield Waiting(come)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def take_part(directory: Path, name: str, answer: Callable[[Message], Message]) -> None:
    if not (directory / f"{name}.json").exists():
        write_invite(directory, name, directory / f"{name}.json")
    invite = read_invite(directory / f"{name}.json")
    state = directory / "clients" / name
    credential = enrol(invite, state, kind="expert", target="legal", rank=4)
    with suppress(TransportError):  # the coordinator ended without a word, as failing ones do
        Session(credential, patience_s=0.5).run(answer)


def echo(message: Message) -> Message:
    return make_reply(message, RecordDict({"c": ConfigRecord({"said": "yes"})}))


def ask_everybody(*, grid: Any, federation: Any, **_: Any) -> None:
    """A plan of one question to each client."""
    tasks = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(tasks, timeout=20))
    failures = [r.error.reason for r in replies if r.has_error()]
    if failures:
        raise RoundError("; ".join(failures))
    assert len(replies) == federation.config.federation.clients
    table = {"legal": {"base": {"mean": 1.2, "ci95": [1.1, 1.3]}, "own_expert": None,
                       "mixture": {"mean": 1.0, "ci95": [0.9, 1.1]}}}  # fmt: skip
    (federation.directory / "evaluation.json").write_text(json.dumps({"bits_per_byte": table}))


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow takes seconds to import and has tests of its own."""
    from fedmore.coordinator.monitor.mlflow_tracker import NullTracker
    from fedmore.coordinator.run import lifecycle as starts

    monkeypatch.setattr(starts, "tracker_of", lambda _: NullTracker())


def test_from_ready_to_the_result(federation: Path) -> None:
    with clients(federation, echo) as out:
        start(federation, Console(file=out, width=100), plan=ask_everybody)
    text = out.getvalue()
    assert text.startswith("ready on 127.0.0.1:")
    assert "(2 clients expected)" in text.splitlines()[0]
    for expected in ("amt joined", "klinik", "1.200 [1.100, 1.300]", "evaluation.json"):
        assert expected in text
    with open_federation(federation) as opened:
        assert states.status(opened)["phase"] == "finished"
        kinds = [e.kind for e in opened.registry.events() if e.kind != "access"]
        assert kinds[:2] == ["joined", "joined"]
        assert all(m.bytes_up > 0 for m in opened.registry.members())


def test_the_log_has_who_came_and_what_was_refused_and_no_secret(federation: Path) -> None:
    def ask(**rest: Any) -> None:
        stranger = read_invite(federation / "amt.json")
        with suppress(TokenError):
            enrol(stranger, federation / "other", kind="expert", target="legal", rank=4)
        ask_everybody(**rest)

    with clients(federation, echo) as out:
        start(federation, Console(file=out, width=100), plan=ask)
    log = federation / "coordinator.log"
    assert log.stat().st_mode & 0o777 == 0o600
    text = log.read_text()
    assert re.search(r"^20\S+Z INFO ready on 127", text, re.MULTILINE)
    assert re.search(r"^20\S+Z INFO amt joined", text, re.MULTILINE)
    assert re.search(r"^20\S+Z WARNING invite amt: refused: Enrol: TokenError", text, re.MULTILINE)
    assert read_invite(federation / "amt.json").token not in text
    with open_federation(federation) as opened:
        [row] = [e for e in opened.registry.events() if e.kind == "refused"]
    assert row.name == "invite amt"
    assert row.payload["reason"].startswith("Enrol: TokenError")


def test_keys_and_blobs_are_closed_to_others_at_every_start(federation: Path) -> None:
    with open_federation(federation) as opened:
        opened.registry.set_state("phase", "finished")
    for name in ("tls", "blobs"):
        (federation / name).chmod(0o755)
    start(federation, Console(file=io.StringIO()), plan=ask_everybody)
    for name in ("tls", "blobs"):
        assert (federation / name).stat().st_mode & 0o777 == 0o700


def test_a_finished_federation_is_left_alone(federation: Path) -> None:
    with open_federation(federation) as opened:
        opened.registry.set_state("phase", "finished")
    out = io.StringIO()
    start(federation, Console(file=out, width=200), plan=ask_everybody)
    assert "this federation is finished" in out.getvalue()
    assert "coordinator init" in out.getvalue()


def test_who_was_away_at_the_end_is_told_by_another_start(federation: Path) -> None:
    """Only one hears the end; the next `start` waits for the other."""
    with clients(federation, echo) as out:
        start(federation, Console(file=out), plan=ask_everybody)
    with open_federation(federation) as opened:
        assert untold(opened.registry) == {}
        opened.registry.add_event("joined", "amt", {})
        opened.registry.add_event("left", "amt", {"reason": "no sign of life for 30 s"})
        assert set(untold(opened.registry).values()) == {"amt"}
    with clients(federation, echo) as out:
        start(federation, Console(file=out), plan=ask_everybody)
    assert "to tell the end to amt" in out.getvalue()
    with open_federation(federation) as opened:
        assert untold(opened.registry) == {}


@pytest.mark.parametrize(
    ("begun", "says"), [(True, "(1 client expected)"), (False, "(2 clients expected)")]
)
def test_whoever_has_withdrawn_is_not_expected(federation: Path, begun: bool, says: str) -> None:
    with open_federation(federation) as opened:
        for name in NAMES:
            opened.registry.enrol(opened.registry.invite(name), name, "expert", "legal", 4)
        if begun:
            metrics = {"clients": {name: {"tokens": 9} for name in NAMES}}
            opened.registry.add_round(stage=0, kind="experts", round=1, metrics=metrics)
        opened.registry.withdraw("amt")
    out = io.StringIO()
    with pytest.raises(RoundError, match=f"0 of {says[1]} clients came"):
        start(federation, Console(file=out, width=100), Settings(patience_s=0.1), ask_everybody)
    assert says in out.getvalue().splitlines()[0]


def test_a_clients_failure_reaches_the_operator(federation: Path) -> None:
    def fail(_: Message) -> Message:
        raise ValueError("the text is all in one line")

    with (
        clients(federation, fail) as out,
        pytest.raises(RoundError, match="ValueError: the text is all in one line"),
    ):
        start(federation, Console(file=out), plan=ask_everybody)
    with open_federation(federation) as opened:
        found = states.status(opened)
    assert found["phase"] == "failed"
    assert "all in one line" in found["failure"]


def test_after_a_failure_the_same_clients_go_on_at_the_same_place(federation: Path) -> None:
    def stop(**_: Any) -> None:
        raise RoundError("nothing works today")

    with clients(federation, echo) as out, pytest.raises(RoundError):
        start(federation, Console(file=out), plan=stop)
    with clients(federation, echo) as out:
        start(federation, Console(file=out), plan=ask_everybody)
    with open_federation(federation) as opened:
        assert states.status(opened)["phase"] == "finished"
        assert len(opened.registry.members()) == 2


def test_missing_clients_are_named(federation: Path) -> None:
    def nobody_comes() -> None:
        write_invite(federation, "amt", federation / "amt.json")

    out = Waiting(nobody_comes)
    with pytest.raises(RoundError, match=r"0 of 2 clients came within 0\.5 s; missing: amt"):
        start(federation, Console(file=out), Settings(patience_s=0.5), ask_everybody)


def test_a_port_in_use_is_named(federation: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        toml = federation / "federation.toml"
        toml.write_text(toml.read_text().replace("port = 0 ", f"port = {port} "))
        with pytest.raises(TransportError, match=f"127.0.0.1:{port}.*in use"):
            start(federation, Console(file=io.StringIO()), plan=ask_everybody)


def test_two_coordinators_do_not_share_a_federation(federation: Path) -> None:
    assert not is_running(federation)
    with running_alone(federation):
        assert is_running(federation)
        with pytest.raises(TransportError, match="another `coordinator start`"):
            running_alone(federation, patience_s=0.0).__enter__()
    assert not is_running(federation)


def test_a_killed_coordinator_counts_as_interrupted(federation: Path) -> None:
    with open_federation(federation) as opened:
        opened.registry.set_state("phase", "running")
        assert states.phase(opened) == "interrupted"
        with running_alone(federation):
            assert states.phase(opened) == "running"


def test_missing_certificates_are_named(federation: Path) -> None:
    (federation / "tls" / "server.key").unlink()
    with pytest.raises(ConfigError, match=r"server\.key"):
        start(federation, Console(file=io.StringIO()), plan=ask_everybody)


def test_a_missing_base_is_named(federation: Path, base: Path) -> None:
    base.rmdir()
    with pytest.raises(BaseError, match=str(base)):
        start(federation, Console(file=io.StringIO()), plan=ask_everybody)


HEAVY = ("torch", "transformers", "mlflow")
"""Nothing of this is needed to listen; the port would wait for seconds."""


def test_ready_before_anything_heavy_is_imported_and_stopped_with_a_word(federation: Path) -> None:
    """`-X importtime` tells of each import in the order in which it ends."""
    command = [sys.executable, "-X", "importtime", "-m", "fedmore.coordinator.cli.main", "start"]
    with subprocess.Popen(
        [*command, str(federation)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        imported = []
        for line in process.stdout:
            if line.startswith("ready on 127.0.0.1:"):
                break
            imported.append(line.rpartition("|")[2].strip())
        else:
            pytest.fail("it was never ready")
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stdout if not line.startswith("import time:")]
        assert process.wait(60) == 130
    assert [name for name in imported if name in HEAVY] == []
    assert any("stopped; `coordinator start" in line for line in said)
    assert not any("Traceback" in line for line in said)
    with open_federation(federation) as opened:
        assert states.status(opened)["phase"] == "interrupted"
