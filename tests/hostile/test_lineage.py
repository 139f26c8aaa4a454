"""Liars who alter a version, its record or its parents: the verification names what they did.

They can write to the folder, and do not have the federation's key.
"""

import json
import shutil
import stat

import pytest
from contributed import trained_folder
from sqlalchemy import update
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.lineage.documents import canonical, signed
from fedmore.coordinator.lineage.records import LINEAGE, record_of
from fedmore.coordinator.lineage.verification import verify
from fedmore.coordinator.pki.signing import key_path, public_path, signing_key
from fedmore.coordinator.store.models import ExpertRecord
from fedmore.experts.errors import ConfigError, RegistryError


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return trained_folder(tmp_path_factory.mktemp("honest") / "hub")


@pytest.fixture
def hub(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "hub")


def change_row(registry, row, **values):
    """Write to the database as its own program would, so that its checksums fit."""
    with registry.database.session(write=True) as session:
        session.execute(update(ExpertRecord).where(ExpertRecord.id == row.id).values(**values))


def replace_record(there, row, document):
    change_row(there.registry, row, metrics={**row.metrics, LINEAGE: there.store.put(document)})


def edited(there, row, **changes):
    found = json.loads(there.store.get(row.metrics[LINEAGE]))
    found["content"] |= changes
    return found


def alters_a_record(there, rows, _):
    found = edited(there, rows[-1], owners={"m": "sha256:0"})
    replace_record(there, rows[-1], canonical(found) + b"\n")


def alters_the_bytes_of_a_record(there, rows, _):
    path = there.store.path(rows[-1].metrics[LINEAGE])
    path.write_bytes(path.read_bytes().replace(b'"round"', b'"Round"'))


def writes_a_record_another_way(there, rows, _):
    found = json.loads(there.store.get(rows[-1].metrics[LINEAGE]))
    replace_record(there, rows[-1], json.dumps(found, indent=1).encode())


def alters_tensors(there, rows, _):
    path = there.store.path(rows[-1].digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def puts_other_tensors_in_place(there, rows, _):
    change_row(there.registry, rows[-1], digest=there.store.put(b"other tensors"))


def swaps_parents(there, rows, _):
    first, second = (record_of(there, row)["parents"] for row in rows[-2:])
    found = edited(there, rows[-1], parents=first or [{"version": rows[0].digest, "record": ""}])
    assert found["content"]["parents"] != second
    replace_record(there, rows[-1], canonical(found) + b"\n")


def gives_a_parent_another_record(there, rows, _):
    """With a record that the federation did sign: that of a version with the same tensors."""
    first = next(row for row in rows if row.name == "medical")
    content = record_of(there, first) | {"at": "2020-01-01T00:00:00+00:00"}
    replace_record(there, first, signed(content, signing_key(there.directory)))


def brings_a_record_of_another_federation(there, rows, other):
    content = record_of(there, rows[-1])
    replace_record(there, rows[-1], signed(content, signing_key(other)))


def swaps_the_records_of_two_versions(there, rows, _):
    one, two = rows[-1].metrics[LINEAGE], rows[-2].metrics[LINEAGE]
    for row, record in ((rows[-1], two), (rows[-2], one)):
        change_row(there.registry, row, metrics={**row.metrics, LINEAGE: record})


def takes_a_record_away(there, rows, _):
    metrics = {key: value for key, value in rows[-1].metrics.items() if key != LINEAGE}
    change_row(there.registry, rows[-1], metrics=metrics)


def names_another_owner(there, rows, _):
    change_row(there.registry, rows[-1], metrics={**rows[-1].metrics, "owners": ["mallory"]})


LIARS = {
    alters_a_record: "its signature does not fit",
    alters_the_bytes_of_a_record: "corrupt, its content has another digest",
    writes_a_record_another_way: "not a signed document in its one form",
    alters_tensors: "corrupt, its content has another digest",
    puts_other_tensors_in_place: r"the registry was changed \(version differ\)",
    swaps_parents: "its signature does not fit",
    gives_a_parent_another_record: "its parent .* has another record than it had",
    brings_a_record_of_another_federation: "signed by the key .* of another federation",
    swaps_the_records_of_two_versions: r"the record is of another version",
    takes_a_record_away: "its record was taken away",
    names_another_owner: r"\(owners differ\)",
}


@pytest.mark.parametrize(
    ("lie", "told"), LIARS.items(), ids=lambda each: getattr(each, "__name__", "")
)
def test_a_lie_is_named(hub, tmp_path, lie, told):
    with open_federation(hub) as there:
        assert len(verify(there).signed) == 4
        lie(there, there.registry.experts(), tmp_path / "other")
        with pytest.raises(RegistryError, match=told):
            verify(there)
    done = CliRunner().invoke(app, ["experts", str(hub), "--verify"])
    assert done.exit_code != 0


def test_whoever_holds_the_folder_can_sign_and_a_key_kept_elsewhere_tells(hub, tmp_path):
    kept = shutil.copy(public_path(hub), tmp_path / "kept.pub")
    with open_federation(hub) as there:
        for path in (key_path(hub), public_path(hub)):
            path.unlink()
        for row in there.registry.experts():
            content = record_of(there, row) | {"parents": []}
            replace_record(there, row, signed(content, signing_key(hub)))
        assert len(verify(there).signed) == 4
        with pytest.raises(RegistryError, match="of another federation"):
            verify(there, kept)
    done = CliRunner().invoke(app, ["experts", str(hub), "--verify", "--key", str(kept)])
    assert isinstance(done.exception, RegistryError)


def test_the_private_key_is_private_and_is_not_made_twice(hub):
    assert stat.S_IMODE(key_path(hub).stat().st_mode) == 0o600
    assert b"PRIVATE" not in public_path(hub).read_bytes()
    key_path(hub).unlink()
    with pytest.raises(ConfigError, match="restore the key from a copy"):
        signing_key(hub)


def test_a_key_whose_public_half_was_never_written_gets_it(hub):
    before = public_path(hub).read_bytes()
    public_path(hub).unlink()
    signing_key(hub)
    assert public_path(hub).read_bytes() == before
