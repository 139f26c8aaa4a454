"""What registry and database promise, on SQLite and on PostgreSQL."""

import subprocess
import sys
import threading
import time
from datetime import UTC

import pytest
from sqlalchemy import create_engine, text

from fedmore.coordinator.store.advisory_lock import Lock
from fedmore.coordinator.store.database import VERSION, Database
from fedmore.coordinator.store.database_url import check_url
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import ConfigError, FedmoreError, RegistryError, TransportError

SHARED = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
"""A file has its folder's lock instead: tests/coordinator/run/test_lifecycle.py."""


def test_what_is_kept_is_there_for_another_process(url, registry):
    registry.enrol(registry.invite("ada"), "ada", "expert", "legal", 4)
    registry.add_traffic("ada", 2**40, 3)
    digest = "ab" * 32
    registry.add_expert(
        name="legal", kind="expert", target="legal", rank=4, params=2**40, stage=0, round=1,
        digest=digest, metrics={"loss": 1.5},
    )  # fmt: skip
    registry.add_round(stage=0, kind="experts", round=1, metrics={"clients": {"ada": {"x": 1}}})
    registry.add_event("joined", "ada", {"kind": "expert"})
    registry.set_state("phase", "running")
    with Registry(url) as other:
        [ada] = other.members()
        assert (ada.name, ada.bytes_up, ada.rank) == ("ada", 2**40, 4)
        assert ada.joined_at.tzinfo is UTC
        assert other.latest("legal").params == 2**40
        assert other.rounds()[0].metrics == {"clients": {"ada": {"x": 1}}}
        assert "joined" in [event.kind for event in other.events()]
        assert other.get_state("phase") == "running"


def test_the_same_round_again_replaces_it(registry):
    for loss in (2.0, 1.0):
        registry.add_round(stage=0, kind="experts", round=1, metrics={"loss": loss})
        registry.set_state("best", loss)
    assert [row.metrics for row in registry.rounds()] == [{"loss": 1.0}]
    assert registry.get_state("best") == 1.0


def test_digests_are_found_wherever_they_are_named(registry):
    a, b, c, d = (letter * 64 for letter in "abcd")
    registry.add_expert(
        name="x", kind="expert", target="x", rank=1, params=1, stage=0, round=1, digest=a
    )
    metrics = {"state": b, "experts": {"x": {"digest": c}}, "late": [{"id": 1}], "n": None}
    registry.add_round(stage=0, kind="experts", round=1, metrics=metrics)
    registry.set_state("embeddings", d)
    registry.set_state("phase", "running")
    assert registry.digests() == {a, b, c, d}


def test_a_token_lets_one_of_many_in(registry):
    token = registry.invite("ada")
    outcomes = []
    ready = threading.Barrier(4)

    def enrol(identity):
        ready.wait()
        try:
            outcomes.append(registry.enrol(token, "ada", "expert", "legal", 4, identity).name)
        except FedmoreError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=enrol, args=(f"{i}" * 64,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["TokenError"] * 3 + ["ada"]


def test_writers_in_two_processes_lose_nothing(url, registry):
    registry.invite("ada")
    code = (
        "import sys\n"
        "from fedmore.coordinator.store.registry import Registry\n"
        "with Registry(sys.argv[1]) as registry:\n"
        "    for _ in range(20):\n"
        "        registry.add_tokens('ada', 1)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert registry.invited()[0].train_tokens == 40


@SHARED
def test_one_coordinator_at_a_time(url, registry):
    refused = pytest.raises(TransportError, match="another coordinator")
    with registry.database.alone(), Registry(url) as other, refused:
        other.database.alone().__enter__()
    with Registry(url) as other, other.database.alone():
        pass


@SHARED
def test_a_coordinator_that_was_killed_is_no_longer_alone(url, registry):
    code = (
        "import sys, os, signal\n"
        "from fedmore.coordinator.store.registry import Registry\n"
        "with Registry(sys.argv[1]).database.alone():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, url], check=False).returncode == -9
    with registry.database.alone():
        pass


@SHARED
@pytest.mark.parametrize("busy", [True, False])
def test_a_lock_that_is_lost_stops_the_coordinator(url, registry, monkeypatch, busy):
    monkeypatch.setattr(Lock.__init__, "__defaults__", (0.05,))
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    end = text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    )
    lost = pytest.raises(RegistryError, match=r"the lock .* is lost \(.*start again")
    with lost, registry.database.alone():
        with admin.connect() as connection:
            connection.execute(end)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if busy:
                registry.set_state("x", 1)
            else:
                threading.Event().wait(20)
    admin.dispose()
    with pytest.raises(RegistryError, match="is lost"):
        registry.get_state("x")
    with Registry(url) as other, other.database.alone():
        assert other.get_state("schema") == VERSION


def test_a_database_of_another_version_is_refused(url, registry):
    assert registry.get_state("schema") == VERSION
    with Registry(url) as again:
        again.set_state("schema", VERSION + 1)
    with pytest.raises(RegistryError, match=rf"version {VERSION + 1}, and this program's of"):
        Registry(url)


def test_a_database_that_cannot_be_had_is_named():
    with pytest.raises(RegistryError, match="no-such-folder"):
        Database("postgresql+psycopg://fedmore@/postgres?host=/no-such-folder")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+psycopg://user:secret@host/name", "holds a password"),
        ("mysql://user@host/name", "mysql is not postgresql"),
        ("nonsense", "server.database"),
    ],
)
def test_a_url_that_is_none_of_ours_is_refused_without_its_password(url, says):
    with pytest.raises(ConfigError, match=says) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)
