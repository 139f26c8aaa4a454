"""Operators' certificates end when others take their place; the authority's key is kept apart."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from running import run

from fedmore.client.identity.enrolment import enrol, read_invite
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.open_journal import open_journal
from fedmore.coordinator.folder.operator_access import local_access, read_access, tls_of
from fedmore.coordinator.pki import authority
from fedmore.coordinator.rpc.operator_client import Remote
from fedmore.coordinator.rpc.server import serve
from fedmore.coordinator.run.lifecycle import info_of
from fedmore.coordinator.run.operator_api import FolderOffice
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import PORT
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import (
    ConfigError,
    MembershipError,
    RegistryError,
    TokenError,
    TransportError,
)

WORDS = "correct horse battery staple"
ENROL = {"kind": "expert", "target": "legal", "rank": 4}


@contextmanager
def serving(directory: Path):
    """What `coordinator start` serves, in this process."""
    with open_federation(directory) as opened:
        server = serve(
            opened.registry,
            open_journal(opened),
            TaskQueue(),
            opened.config,
            info_of(opened.config),
            lambda _: None,
            tls=tls_of(opened, ["127.0.0.1"]),
            office=FolderOffice(opened),
        )
        opened.registry.set_state(PORT, server.port)
        try:
            yield
        finally:
            server.stop()


def as_operator(found) -> str:
    with Remote(found) as link:
        return link.status()["phase"]


ENDING = {
    "renew": lambda place, _: run("renew", place),
    "rotate": lambda place, _: run("operator", "rotate", place, "operator"),
    "rotate another": lambda place, out: run("operator", "rotate", place, "ops", "--out", out),
    "revoke": lambda place, _: run("operator", "revoke", place, "ops"),
}


@pytest.mark.parametrize("how", ENDING)
def test_a_certificate_that_was_copied_before_is_let_in_no_more(federation, tmp_path, how):
    """At its next call, of the coordinator that runs."""
    file, fresh = tmp_path / "ops.json", tmp_path / "new.json"
    with serving(federation):
        run("operator", "add", federation, "ops", "--out", file)
        own = how in ("renew", "rotate")
        copied = local_access(federation) if own else read_access(file)
        assert as_operator(copied)
        ENDING[how](federation, fresh)
        with pytest.raises(MembershipError, match="certificate that is still good"):
            as_operator(copied)
        if own:
            assert as_operator(local_access(federation))
            assert as_operator(read_access(file)), "others' files are as good as before"
        elif fresh.exists():
            assert as_operator(read_access(fresh))
        names = {line.split()[0] for line in run("operator", "list", federation).splitlines()[1:]}
        assert names == ({"operator"} if how == "revoke" else {"operator", "ops"})


def test_the_folder_of_an_earlier_version_lets_its_operator_in_from_the_next_start(federation):
    with Registry.open(federation) as registry:
        registry.set_state("operators", {"ops": "ab" * 32})
    with serving(federation):
        assert as_operator(local_access(federation))
    assert "ops" in run("operator", "list", federation)


def test_a_passphrase_keeps_the_key_from_who_has_the_folder(federation, tmp_path, monkeypatch):
    monkeypatch.setenv(authority.NEW_PASSPHRASE, WORDS)
    run("authority", "protect", federation)
    key = federation / "tls" / "ca.key"
    assert b"ENCRYPTED" in key.read_bytes()
    invite = ["invite", federation, "ada", "--out", tmp_path / "ada.json"]
    with Registry.open(federation) as registry:
        registry.set_state(PORT, 1)
    for given, says in ((None, authority.PASSPHRASE), ("wrong", "the passphrase is wrong")):
        if given:
            monkeypatch.setenv(authority.PASSPHRASE, given)
        with pytest.raises(ConfigError, match=says):
            run(*invite)
    run("status", federation)  # which needs no key
    local_access(federation)
    monkeypatch.setenv(authority.PASSPHRASE, WORDS)
    run(*invite)
    with serving(federation):
        enrol(read_invite_at(federation, tmp_path, "bob"), tmp_path / "bob", **ENROL)
        assert as_operator(local_access(federation))
    monkeypatch.setenv(authority.NEW_PASSPHRASE, "short")
    with pytest.raises(ConfigError, match="12 characters"):
        run("authority", "protect", federation)
    run("renew", federation)


def read_invite_at(federation, folder, name, *options):
    (folder / f"{name}.json").unlink(missing_ok=True)
    run("invite", federation, name, "--out", folder / f"{name}.json", *options)
    return read_invite(folder / f"{name}.json")


def test_the_key_can_lie_elsewhere(federation, tmp_path):
    safe = tmp_path / "safe" / "ca.key"
    run("authority", "move", federation, safe)
    assert not (federation / "tls" / "ca.key").exists()
    run("renew", federation)
    with pytest.raises(ConfigError, match="exists already"):
        run("authority", "move", federation, safe)
    before = (federation / "tls" / "ca.pem").read_bytes()
    safe.rename(tmp_path / "unplugged")
    with pytest.raises(ConfigError, match=r"safe/ca\.key: No such file"):
        run("renew", federation)
    assert (federation / "tls" / "ca.pem").read_bytes() == before


def test_another_authority_ends_every_certificate_and_members_come_back(federation, tmp_path):
    with serving(federation):
        ada = enrol(read_invite_at(federation, tmp_path, "ada"), tmp_path / "ada", **ENROL)
        old = local_access(federation)
    said = run("authority", "roll", federation)
    assert f"coordinator invite {federation} ada --again" in said
    with serving(federation):
        with ada.link() as link, pytest.raises(TransportError):
            link.renew("")
        with pytest.raises(TransportError):
            as_operator(old)
        again = read_invite_at(federation, tmp_path, "ada", "--again")
        back = enrol(again, tmp_path / "ada", **ENROL)
        assert (back.node_id, back.key) == (ada.node_id, ada.key)
        with back.link() as link:
            assert link.describe().name == "demo"
        with pytest.raises(TokenError, match="has been used"):  # with any other key
            enrol(again, tmp_path / "mallory", **ENROL)
        assert as_operator(local_access(federation))


def test_an_invite_again_is_for_members(federation, tmp_path):
    with Registry.open(federation) as registry:
        registry.set_state(PORT, 1)
        registry.invite("bob")
        registry.enrol(registry.invite("eve"), "eve", "expert", "legal", 4)
        registry.revoke("eve", "gone")
    cases = {"bob": "has not joined yet", "nobody": "no member is named", "eve": "revoked"}
    for name, says in cases.items():
        with pytest.raises((MembershipError, RegistryError), match=says):
            read_invite_at(federation, tmp_path, name, "--again")
