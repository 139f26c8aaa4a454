"""Liars about a withdrawal: an altered file, a deleted one, and what was removed and is back."""

import json
import shutil

import pytest
import torch
from contributed import trained_folder
from safetensors.torch import load
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.lineage import evidence
from fedmore.coordinator.lineage.documents import canonical, signed
from fedmore.coordinator.lineage.verification import verify
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.coordinator.pki.signing import signing_key
from fedmore.experts.errors import RegistryError


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A folder from which a has withdrawn, what the command said, and the tensors that went."""
    hub = trained_folder(tmp_path_factory.mktemp("withdrawn") / "hub")
    with open_federation(hub) as there:
        rows = [row for row in there.registry.experts() if row.name == "legal"]
        blobs = {row.digest: there.store.get(row.digest) for row in rows}
    done = CliRunner().invoke(app, ["withdraw", str(hub), "a", "--reason", "our lawyer"])
    assert done.exit_code == 0, (done.output, done.exception)
    return hub, done.output, blobs


@pytest.fixture
def hub(told, tmp_path):
    return shutil.copytree(told[0], tmp_path / "hub")


def file_of(hub):
    (path,) = (hub / "withdrawals").iterdir()
    return path


def test_it_says_what_was_removed_and_what_is_promised(told):
    hub, said, blobs = told
    path = file_of(hub)
    assert f"evidence: {path}" in said
    content = json.loads(path.read_bytes())["content"]
    about = {key: content[key] for key in ("owner", "authority", "reason", "federation")}
    assert about == {
        "owner": "a", "authority": evidence.OPERATOR, "reason": "our lawyer", "federation": "test",
    }  # fmt: skip
    versions = content["removed"]["versions"]
    assert [each["version"] for each in versions] == [f"sha256:{digest}" for digest in blobs]
    assert {f"sha256:{digest}" for digest in blobs} < set(content["removed"]["blobs"])
    (name,) = content["experts"]
    expert = content["experts"][name]
    with open_federation(hub) as there:
        after = there.registry.latest("legal").digest
    assert (name, expert["after"]["version"]) == ("legal", f"sha256:{after}")
    assert expert["before"] == versions[-1]["version"]
    assert (expert["owners"], expert["exact"]) == (["b"], True)
    assert expert["promises"] == [evidence.EXACT, evidence.BESIDE]
    with open_federation(hub) as there:
        assert verify(there).withdrawals == [path]
        leave_out(there)
        assert file_of(hub).read_bytes() == path.read_bytes()


def test_it_holds_nothing_of_what_was_withdrawn(told):
    hub, _, blobs = told
    data = file_of(hub).read_bytes()
    for blob in blobs.values():
        for tensor in load(blob).values():
            raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            assert raw[:8] not in data
            assert raw[:8].hex().encode() not in data


def alters_it(there, path, _):
    found = json.loads(path.read_bytes())
    found["content"]["experts"] = {}
    path.write_bytes(canonical(found) + b"\n")


def deletes_it(_there, path, _):
    path.unlink()


def signs_it_with_another_key(there, path, _):
    content = json.loads(path.read_bytes())["content"]
    path.write_bytes(signed(content, signing_key(there.directory.parent / "other")))


def puts_another_s_in_its_place(there, path, _):
    content = json.loads(path.read_bytes())["content"] | {"owner": "b"}
    path.write_bytes(signed(content, signing_key(there.directory)))


def puts_a_blob_back(there, _path, blobs):
    there.store.put(next(iter(blobs.values())))


LIARS = {
    alters_it: "its signature does not fit",
    deletes_it: "the evidence of a withdrawal is missing",
    signs_it_with_another_key: "of another federation",
    puts_another_s_in_its_place: "not the evidence of this withdrawal",
    puts_a_blob_back: "was removed, and is here again",
}


@pytest.mark.parametrize(
    ("lie", "message"), LIARS.items(), ids=lambda each: getattr(each, "__name__", "")
)
def test_a_lie_is_named(told, hub, lie, message):
    with open_federation(hub) as there:
        lie(there, file_of(hub), told[2])
        with pytest.raises(RegistryError, match=message):
            verify(there)


def test_an_owner_who_withdraws_itself_is_the_authority(tmp_path):
    hub = trained_folder(tmp_path / "hub")
    with open_federation(hub) as there:
        there.registry.withdraw("m")
        leave_out(there)
        content = json.loads(file_of(hub).read_bytes())["content"]
        assert content["authority"] == evidence.OWNER
        assert content["experts"]["medical"]["promises"] == [evidence.GONE]
        assert content["experts"]["medical"]["after"] is None
        assert verify(there).withdrawals


def test_a_rule_that_does_not_tell_owners_apart_is_said_to_be_not_exact(tmp_path):
    hub = trained_folder(tmp_path / "hub")
    with open_federation(hub) as there:
        entry = there.registry.rounds()[-1].metrics["experts"]["legal"]
        row = there.registry.rounds()[-1]
        there.registry.withdraw("a")
        leave_out(there)
        row = there.registry.rounds()[-1]
        experts = {**row.metrics["experts"], "legal": entry | {"owners": ["b"]}}
        experts["legal"]["exact_withdrawal"] = False
        there.registry.add_round(
            stage=0, kind="experts", round=row.round, metrics={**row.metrics, "experts": experts}
        )
        found = evidence._changed(there, "legal", "sha256:x")
        assert found["promises"] == [evidence.NOT_EXACT, evidence.BESIDE]
