"""diff, promote, hold, restore and gc of versions, through the commands that an operator gives."""

import json

import pytest
import torch
from contributed import SITES, another_round, trained_folder
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.folder.federation import open_federation, running_alone
from fedmore.coordinator.lineage.promotion import in_use, promoted
from fedmore.coordinator.lineage.verification import verify
from fedmore.coordinator.mixture.assemble import load_factors
from fedmore.coordinator.mixture.commands import known_experts
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.store.blobs import Store
from fedmore.experts.errors import RegistryError
from fedmore.strategies.expert_stage.snapshot import restore


@pytest.fixture
def hub(tmp_path):
    return trained_folder(tmp_path / "hub", rounds=5)


def run(*words, ok=True):
    done = CliRunner().invoke(app, ["experts", *map(str, words)])
    assert (done.exit_code == 0) == ok, (done.output, done.exception)
    return done.output if ok else str(done.exception)


def versions(hub, name="legal"):
    with open_federation(hub) as there:
        return [row.digest for row in there.registry.experts() if row.name == name]


def used(hub, name="legal"):
    with open_federation(hub) as there:
        row = promoted(there.registry, name)
        return row and row.digest


def test_two_versions_are_compared_as_their_dense_products_are(hub):
    first, *_, last = versions(hub)
    found = json.loads(run("diff", hub, first[:10], "legal", "--json"))
    with open_federation(hub) as there:
        rows = {row.digest: row for row in there.registry.experts()}
        dense = []
        for digest in (first, last):
            b, a = load_factors(there.store, rows[digest])[SITES[0].path]
            dense.append(b.double() @ a.double())
    wanted = float((dense[0] - dense[1]).norm() / dense[0].norm())
    assert found["distance"] == pytest.approx(wanted, rel=1e-6)
    assert found["norms"] == pytest.approx([float(torch.linalg.norm(d)) for d in dense], rel=1e-6)
    assert found["contributions_changed"] == ["a", "b"]
    assert found["owners_added"] == found["owners_gone"] == []
    assert "distance: " in run("diff", hub, first, last)


def test_an_older_version_is_restored_until_the_next_round(hub):
    first, *_, last = versions(hub)
    assert used(hub) == last
    told = run("restore", hub, first[:8])
    assert "the next round continues from the last one" in told
    assert used(hub) == first
    with open_federation(hub) as there:
        assert len(verify(there).signed) == 10
        blob = there.registry.rounds()[-1].metrics[STATE]
        another_round(there, restore(there.store.get(blob), there.config.stages[0]), 6)
    assert used(hub) == versions(hub)[-1] not in (first, last)


def test_a_held_version_is_in_no_mixture_and_status_says_why(hub):
    *_, before, last = versions(hub)
    assert f"in use: {before[:12]}" in run("hold", hub, "legal", "--why", "it swears")
    assert used(hub) == before
    status = CliRunner().invoke(app, ["status", str(hub)]).output
    assert "left out of the mixture: legal: held back, it swears" in status.replace("\n", " ")
    tree = run(hub, "--tree")
    assert "held: it swears" in tree
    assert "is promoted" in run("promote", hub, last)
    assert used(hub) == last


def test_an_expert_without_a_version_in_use_is_in_no_mixture(hub):
    for digest in reversed(versions(hub)):
        told = run("hold", hub, digest)
    assert "in use: no version of it" in told
    with open_federation(hub) as there:
        assert list(in_use(there.registry)) == ["medical"]
        assert known_experts(there, None) == ("medical",)
        with pytest.raises(RegistryError, match="no version of legal is in use: held, by the op"):
            known_experts(there, ("legal",))


WRONG = {
    "unknown": (("promote", "zz"), "'zz': no version begins with this"),
    "ambiguous": (("hold", ""), "no version begins with this"),
    "promote of an older one": (("promote", 0), "`coordinator experts restore` goes back"),
    "restore of the newest": (("restore", -1), "is the promoted version already"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_wrong_names_are_refused_with_those_that_there_are(hub, words, told):
    command, version = words
    version = versions(hub)[version] if isinstance(version, int) else version
    assert told in run(command, hub, version, ok=False)
    assert used(hub) == versions(hub)[-1]


def test_nothing_is_decided_while_a_coordinator_runs(hub):
    with running_alone(hub):
        assert "another `coordinator start`" in run("hold", hub, "legal", ok=False)


def test_garbage_is_listed_first_and_deleted_when_asked(hub):
    known = versions(hub)
    run("restore", hub, known[0])
    before = Store(hub / "blobs").digests()
    assert "can be deleted" in run("gc", hub, "--keep", 1)
    assert Store(hub / "blobs").digests() == before
    told = run("gc", hub, "--keep", 1, "--delete")
    assert "5 versions and " in told
    assert versions(hub) == [known[0], known[3], known[4]], "promoted, one to restore, newest"
    assert len(versions(hub, "medical")) == 2
    assert not {known[1], known[2]} & Store(hub / "blobs").digests()
    run(hub, "--verify")
    assert "0 versions and 0 blobs" in run("gc", hub, "--keep", 1, "--delete")


class Killed(BaseException):
    """No handler of ours catches it."""


@pytest.mark.parametrize("at", range(8))
def test_a_killed_collection_is_finished_by_the_next(hub, monkeypatch, at):
    calls, delete = iter(range(100)), Store.delete

    def dies(store, digest):
        if next(calls) == at:
            raise Killed
        delete(store, digest)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "delete", dies)
        with pytest.raises(Killed):
            CliRunner().invoke(app, ["experts", "gc", str(hub), "--delete"], catch_exceptions=False)
    run("gc", hub, "--delete")
    kept = versions(hub) + versions(hub, "medical")
    assert len(kept) == 6
    run(hub, "--verify")
    with open_federation(hub) as there:
        rounds = [row.metrics["experts"] for row in there.registry.rounds()]
        made = {entry[name]["digest"] for entry in rounds for name in entry}
        assert made & there.store.digests() == set(kept)
