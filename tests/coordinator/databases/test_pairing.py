"""A registry that is empty or another's: refused with one line, and no blob is lost."""

import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from fedmore.coordinator.folder import create as inits
from fedmore.coordinator.folder.federation import DATABASE, open_federation
from fedmore.coordinator.folder.layout import BLOBS
from fedmore.coordinator.folder.open_journal import open_journal
from fedmore.coordinator.folder.pairing import check_pair
from fedmore.coordinator.mixture.commands import AssembleOptions, assemble_mixture
from fedmore.coordinator.run import operator_api
from fedmore.coordinator.run.lifecycle import start
from fedmore.coordinator.store.blobs import GRACE_S, OWNER, TRASH, Store
from fedmore.coordinator.store.commit_mark import SUFFIX
from fedmore.coordinator.store.registry import FILE, Registry
from fedmore.coordinator.store.state_keys import STORE_ID
from fedmore.experts.errors import ConfigError, RegistryError

COMMANDS = {
    "start": lambda place: start(place, Console(quiet=True)),
    "status": operator_api.status,
    "withdraw": lambda place: operator_api.withdraw(place, "ada", ""),
    "assemble": lambda place: assemble_mixture(place, AssembleOptions()),
}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def trained(federation):
    """A federation with a member, and blobs that its registry names."""
    with open_federation(federation) as opened:
        opened.registry.enrol(opened.registry.invite("ada"), "ada", "expert", "legal", 4)
        digests = [opened.store.put(bytes([number]) * 5000) for number in range(9)]
        opened.registry.set_state("embeddings", digests)
    return federation


def of_another(trained, url, tmp_path, base, monkeypatch):
    """Another federation's database, by the environment."""
    config = inits.new_config(name="two", base=str(base), domains=("legal",), database=url)
    inits.create(tmp_path / "two", config)
    monkeypatch.setenv(DATABASE, url)


def empty_database(trained, url, tmp_path, base, monkeypatch):
    """A database with nothing in it, by the environment."""
    monkeypatch.setenv(DATABASE, url)


def no_bytes(trained, url, tmp_path, base, monkeypatch):
    """What a crash may leave."""
    (trained / FILE).write_bytes(b"")


def made_anew(trained, url, tmp_path, base, monkeypatch):
    """What a program that does not know of ids made of the file without bytes."""
    (trained / FILE).unlink()
    (trained / f"{FILE}{SUFFIX}").unlink()
    Registry.open(trained).close()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", [no_bytes, empty_database, of_another, made_anew])
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_strangers_registry_is_refused_and_nothing_is_lost(
    trained, base, tmp_path, url, monkeypatch, fault, command
):
    fault(trained, url.replace("registry.db", "other.db"), tmp_path, base, monkeypatch)
    before = content(trained)
    with pytest.raises(RegistryError, match="nothing was changed") as caught:
        COMMANDS[command](trained)
    assert "\n" not in str(caught.value)
    after = content(trained)
    assert {name: data for name, data in after.items() if name in before} == before
    assert set(after) - set(before) <= {"coordinator.log", "lock"}


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("fault", [empty_database, of_another])
def test_so_it_is_on_a_shared_database(trained, base, tmp_path, url, monkeypatch, fault):
    fault(trained, url, tmp_path, base, monkeypatch)
    before = content(trained / BLOBS)
    with pytest.raises(RegistryError, match="nothing was changed"):
        start(trained, Console(quiet=True))
    assert content(trained / BLOBS) == before


def test_the_blobs_of_another_federation_are_refused(trained, base, tmp_path):
    config = inits.new_config(name="two", base=str(base), domains=("legal",))
    inits.create(tmp_path / "two", config)
    (trained / BLOBS).rename(tmp_path / "aside")
    (tmp_path / "two" / BLOBS).rename(trained / BLOBS)
    with pytest.raises(RegistryError, match="has another id than its blobs"):
        operator_api.status(trained)


def test_a_registry_whose_blobs_are_gone_is_refused(trained, tmp_path):
    (trained / BLOBS).rename(tmp_path / "aside")
    with pytest.raises(RegistryError, match="not the registry of"):
        operator_api.status(trained)


@pytest.mark.parametrize("blobs", [True, False])
def test_a_folder_from_before_there_were_ids_gets_one(trained, blobs):
    (trained / BLOBS / OWNER).unlink()
    with Registry.open(trained) as registry:
        registry.set_state(STORE_ID, None)
        if not blobs:
            registry.set_state("embeddings", None)
            store = Store(trained / BLOBS)
            for digest in store.digests():
                store.discard(digest)
        check_pair(registry, Store(trained / BLOBS))
        assert registry.get_state(STORE_ID) == Store(trained / BLOBS).owner() != ""


def test_init_that_was_killed_half_way_can_be_tried_again(base, tmp_path, monkeypatch):
    config = inits.new_config(name="demo", base=str(base), domains=("legal",))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "set_state", killed)
        with pytest.raises(KeyboardInterrupt):
            inits.create(tmp_path / "hub", config)
    inits.create(tmp_path / "hub", config)
    operator_api.status(tmp_path / "hub")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_one_database_is_not_given_to_two_new_federations(base, tmp_path, url):
    config = inits.new_config(name="demo", base=str(base), domains=("legal",), database=url)
    inits.create(tmp_path / "one", config)
    with pytest.raises(ConfigError, match="holds a federation already"):
        inits.create(tmp_path / "two", config)
    operator_api.status(tmp_path / "one")


def test_what_is_swept_out_waits_in_the_trash(trained):
    with open_federation(trained) as opened:
        store, lost = opened.store, opened.store.put(b"nobody names it")
        kept = store.digests() - {lost}
        open_journal(opened).ledger.sweep()
        assert store.digests() == kept
        assert store.deleted(lost) == b"nobody names it"
        past = time.time() - GRACE_S - 60
        os.utime(store.root / TRASH / lost, (past, past))
        open_journal(opened).ledger.sweep()
        assert store.deleted(lost) is None
        assert store.digests() == kept


def test_a_blob_that_is_damaged_in_the_trash_is_none(trained):
    store = Store(trained / BLOBS)
    digest = store.put(b"x")
    store.delete(digest)
    (store.root / TRASH / digest).write_bytes(b"y")
    assert store.deleted(digest) is None
    assert store.empty_trash(older_s=0) == 1
