"""What the record of a version says, and how versions are shown by what they were made from."""

import json
import re

import pytest
from contributed import another_round, trained_folder
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.lineage.records import LINEAGE, record_of
from fedmore.coordinator.lineage.verification import verify
from fedmore.coordinator.mixture.repacking import repacked
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.strategies.expert_stage.snapshot import restore


@pytest.fixture
def hub(tmp_path):
    return trained_folder(tmp_path / "hub")


def run(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_a_round_s_record_says_what_it_was_made_of(hub):
    with open_federation(hub) as there:
        rows = [row for row in there.registry.experts() if row.name == "legal"]
        first, second = (record_of(there, row) for row in rows)
        assert first["parents"] == []
        assert second["parents"] == [
            {"version": rows[0].digest, "record": rows[0].metrics[LINEAGE]}
        ]
        assert set(second["owners"]) == {"a", "b"}
        assert first["owners"]["a"] != second["owners"]["a"] != second["owners"]["b"]
        about = {key: second[key] for key in ("origin", "stage", "round", "version", "kind")}
        assert about == {
            "origin": "round", "stage": 0, "round": 2, "version": rows[1].digest, "kind": "expert",
        }  # fmt: skip
        assert second["details"] == {"aggregation": "mean", "codec": "sign1", "stage": "experts"}
        assert re.fullmatch("sha256:[0-9a-f]{64}", second["config"])


def test_a_withdrawal_and_a_repack_name_what_they_replace(hub):
    with open_federation(hub) as there:
        there.registry.withdraw("a")
        medical = there.registry.latest("medical")
        cut = repacked(there, "medical", 1).row
        leave_out(there)
        made = record_of(there, there.registry.latest("legal"))
        assert (made["origin"], set(made["owners"])) == ("withdrawal", {"b"})
        record = record_of(there, cut)
        assert record["origin"] == "repack"
        assert [parent["version"] for parent in record["parents"]] == [medical.digest]
        assert record["owners"] == record_of(there, medical)["owners"]
        assert len(verify(there).signed) == 4


def test_a_round_that_is_made_again_keeps_its_record(hub):
    with open_federation(hub) as there:
        before = [(row.digest, row.metrics[LINEAGE]) for row in there.registry.experts()]
        stage = there.config.stages[0]
        blob = there.registry.rounds()[0].metrics[STATE]
        states = restore(there.store.get(blob), stage)
        another_round(there, states, 2)
        assert [(r.digest, r.metrics[LINEAGE]) for r in there.registry.experts()] == before


def test_the_tree_hangs_versions_below_what_they_were_made_from(hub):
    lines = run("experts", hub, "--tree").splitlines()
    legal = next(i for i, line in enumerate(lines) if line.startswith("legal"))
    one, two = lines[legal + 1 : legal + 3]
    assert "round  stage 1 round 1" in one
    assert "a, b" in one
    assert two.index("└") > one.index("└")
    assert "4 versions are as their signed records say" in run("experts", hub, "--verify")


def test_a_version_of_an_earlier_fedmore_is_shown_without_a_record(tmp_path):
    hub = trained_folder(tmp_path / "hub", rounds=0)
    with open_federation(hub) as there:
        there.registry.add_expert(
            name="legal", kind="expert", target="legal", rank=2, params=9, stage=0, round=1,
            digest=there.store.put(b"tensors"),
        )  # fmt: skip
    assert "no record" in run("experts", hub, "--tree")
    assert "made by an earlier fedmore" in run("experts", hub, "--verify")
    assert json.loads(run("experts", hub, "--json"))[0]["name"] == "legal"
    assert json.loads(run("experts", "list", hub, "--json"))[0]["name"] == "legal"
