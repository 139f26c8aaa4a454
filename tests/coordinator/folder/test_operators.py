"""The operators' commands, on a folder and, with an access file, on a program that runs."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from running import run

from fedmore.client.cli.main import app as client
from fedmore.client.identity.enrolment import enrol, read_invite
from fedmore.coordinator.cli.main import app as coordinator
from fedmore.coordinator.pki.tls_files import read_pair, read_tls
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import PORT
from fedmore.experts.errors import (
    ConfigError,
    FedmoreError,
    MembershipError,
    RegistryError,
    TokenError,
    TransportError,
)

PROGRAM = [sys.executable, "-m", "fedmore.coordinator.cli.main"]


@contextmanager
def started(directory: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """`coordinator start`, waiting for clients."""
    command = [*PROGRAM, "start", str(directory), *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready on 127.0.0.1:")
            yield process
        finally:
            process.kill()


def secrets_in(*files: Path) -> list[str]:
    """What of these files nobody else may see: tokens, and lines of private keys."""
    found = []
    for file in files:
        text = file.read_text()
        if file.suffix == ".json":
            table = json.loads(text)
            found += [v for k, v in table.items() if k in ("token", "key") and v]
        elif "PRIVATE" in text:
            found.append(text)
    lines = (line for each in found for line in each.splitlines())
    return [line for line in lines if len(line) > 30]


@pytest.mark.slow
def test_an_access_file_steers_a_running_coordinator(federation: Path, tmp_path: Path) -> None:
    file, invite, state = tmp_path / "ops.json", tmp_path / "amt.json", tmp_path / "state"
    with started(federation) as process:
        assert "coordinator status ops.json" in run(
            "operator", "add", federation, "ops", "--out", file
        )
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert run("health", file) == run("health", federation) == "serving\n"
        run("invite", file, "amt", "--out", invite)
        assert stat.S_IMODE(invite.stat().st_mode) == 0o600
        enrol(read_invite(invite), state, kind="expert", target="legal", rank=4)
        found = json.loads(run("status", file, "--json"))
        assert (found["phase"], [m["name"] for m in found["members"]]) == ("waiting", ["amt"])
        here = json.loads(run("status", federation, "--json"))
        del found["members"], here["members"]  # whose traffic is counted meanwhile
        assert found == here
        with pytest.raises(ConfigError, match="needs the invite too"):
            run("withdraw", state, app=client)
        proof = ("--invite", invite)
        said = run("withdraw", state, *proof, "--reason", "our lawyer", app=client)
        assert "amt has left demo: the next aggregate is without its work" in said
        assert "withdrawn" in run("status", file)
        run("revoke", file, "amt", "--reason", "gone")
        assert "revoked" in run("status", file)
        with pytest.raises(MembershipError, match="gone"):
            run("withdraw", state, *proof, app=client)
        run("operator", "revoke", federation, "ops")
        with pytest.raises(MembershipError, match="'ops' may not call this"):
            run("stop", file)
        run("stop", federation, "--reason", "the evening")
        said = "".join(process.communicate(timeout=60))
    assert process.returncode == 143
    assert "an operator stops the coordinator: the evening" in said
    assert "amt withdrew: our lawyer; the next aggregate is without its work" in said
    assert "goes on where this one stopped" in said
    with Registry.open(federation) as registry:
        assert registry.withdrawn() == {"amt"}
        events = [(e.kind, e.name) for e in registry.events()]
        kinds = [kind for kind, _ in events if kind not in ("refused", "access")]
        assert kinds == ["operator", "withdrawn", "operator", "revoked", "operator"]
        assert [name for kind, name in events if kind == "refused"] == ["amt", "operator ops"]
    with pytest.raises(TransportError, match="no coordinator is running"):
        run("stop", federation)
    for secret in secrets_in(file, invite, *(federation / "tls").iterdir(), state / "key.pem"):
        assert secret not in said
        for kept in (p for p in federation.iterdir() if p.is_file()):
            assert secret.encode() not in kept.read_bytes(), kept


def test_a_client_that_never_joined_cannot_withdraw(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the invite too"):
        run("withdraw", tmp_path, app=client)


def test_no_secret_is_asked_for_on_a_command_line() -> None:
    """Anybody on the machine can read it there."""
    for app in (coordinator, client):
        for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
            words = {word for p in command.params for word in re.split(r"\W|_", p.name)}
            assert not words & {"token", "key", "secret", "password", "certificate"}, name


def test_without_tls_the_folder_still_revokes_but_stops_nothing(federation: Path) -> None:
    with started(federation, "--insecure"):
        with Registry.open(federation) as registry:
            registry.enrol(registry.invite("amt"), "amt", "expert", "legal", 4)
        run("revoke", federation, "amt")
        assert "revoked" in run("status", federation)
        with pytest.raises(TransportError, match="started --insecure stops by Ctrl-C"):
            run("stop", federation)


def test_renew_keeps_the_authority(federation: Path) -> None:
    before = {stem: read_pair(federation, stem) for stem in ("ca", "server", "operator")}
    run("renew", federation)
    after = {stem: read_pair(federation, stem) for stem in ("ca", "server", "operator")}
    assert after["ca"] == before["ca"]
    assert after["server"] != before["server"]
    assert after["operator"] != before["operator"]


@pytest.mark.parametrize("lost", ["server.key", "server.pem", "operator.key"])
def test_renew_needs_the_authority_alone(federation: Path, lost: str) -> None:
    (federation / "tls" / lost).unlink()
    run("renew", federation)
    read_tls(federation)


def test_renew_makes_no_new_authority(federation: Path) -> None:
    (federation / "tls" / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key.*restore it from a copy"):
        run("renew", federation)
    assert not (federation / "tls" / "ca.key").exists()


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_what_is_wrong_is_said(federation: Path, tmp_path: Path) -> None:
    with Registry.open(federation) as registry:
        registry.set_state(PORT, 1)
    out = tmp_path / "x.json"
    cases: list[tuple[list[object], type[FedmoreError], str]] = [
        (["status", put(tmp_path / "no", "{}")], ConfigError, "not an operator's access file"),
        (["status", put(tmp_path / "not", "no")], ConfigError, "not an operator's access file"),
        (["operator", "add", federation, "operator", "--out", out], ConfigError, "another name"),
        (["operator", "add", federation, "a/b", "--out", out], ConfigError, "cannot be a name"),
        (["operator", "revoke", federation, "ops"], RegistryError, "there are: operator"),
        (["operator", "revoke", federation, "operator"], ConfigError, "operator rotate"),
        (["operator", "rotate", federation, "ops"], RegistryError, "there are: operator"),
        (["revoke", federation, "nobody"], RegistryError, "no member is named .*there is none yet"),
        (["health", federation], TransportError, "cannot be reached"),
        (["invite", federation, "amt", "--out", out, "--hours", 0], ConfigError, "hours"),
        (["invite", federation, "amt", "--out", out, "--hours", "nan"], ConfigError, "hours"),
    ]
    for arguments, error, says in cases:
        with pytest.raises(error, match=says):
            run(*arguments)
    assert not out.exists()


def test_an_access_file_asks_for_no_insecure_invite(federation: Path, tmp_path: Path) -> None:
    with Registry.open(federation) as registry:
        registry.set_state(PORT, 1)
    file = tmp_path / "ops.json"
    run("operator", "add", federation, "ops", "--out", file)
    with pytest.raises(ConfigError, match="--insecure goes with the federation's folder"):
        run("invite", file, "amt", "--out", tmp_path / "x.json", "--insecure")


def test_an_insecure_invite_is_for_this_machine_alone(federation: Path, tmp_path: Path) -> None:
    config = federation / "federation.toml"
    config.write_text(config.read_text().replace("[server]", '[server]\nhost = "0.0.0.0"'))
    with Registry.open(federation) as registry:
        registry.set_state(PORT, 1)
    with pytest.raises(ConfigError, match=r"server\.host is 0\.0\.0\.0"):
        run("invite", federation, "amt", "--out", tmp_path / "x.json", "--insecure")


def test_an_expired_invite_is_refused_by_the_client(federation: Path, tmp_path: Path) -> None:
    with Registry.open(federation) as registry:
        registry.set_state(PORT, 1)
    out = tmp_path / "x.json"
    run("invite", federation, "amt", "--out", out, "--hours", 0.000001)
    with pytest.raises(TokenError, match="expired"):
        enrol(read_invite(out), tmp_path / "state", kind="expert", target="legal", rank=4)
    assert not (tmp_path / "state").exists()
