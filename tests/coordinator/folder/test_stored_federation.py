"""A federation that an earlier version made and finished: folder, database and an owner's state.

`stored/2026-11.tar.xz` was written before the modules moved: two owners of an expert, one of an
adapter, one round each, over a random base of one layer. The base is stored beside it, since other
processors draw other numbers.
"""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.owner.answered_rounds import Answered
from fedmore.client.state.memory import Memory
from fedmore.coordinator.cli.main import app
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.mixture.assemble import load_factors
from fedmore.experts.errors import EgressError
from fedmore.experts.mixture.checkpoint import load_mixture

STORED = Path(__file__).parent / "stored"
DIGESTS = {
    "kitchen": "a17db1c13851e48e1541334770c830c29ef88c26d1a919dedab789015de92808",
    "xx": "64b4a55896cd86ed447e670c719a548e20c647e0d3d65d717007bcb4e79e167a",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The stored folder, with its base beside it."""
    place = tmp_path / "old"
    for name in ("2026-11.tar.xz", "2026-11-base.tar.xz"):
        with tarfile.open(STORED / name) as archive:
            archive.extractall(place, filter="data")
    for file in (place / "federation.toml", place / "owner" / "state" / "identity.json"):
        text = file.read_text(encoding="utf-8").replace("/tmp/old/fed", "@HERE@")
        file.write_text(text.replace("@HERE@", str(place)), encoding="utf-8")
    return place


def printed(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_its_experts_are_those_that_were_made(folder: Path) -> None:
    status = json.loads(printed("status", folder, "--json"))
    assert (status["phase"], status["experts"]) == ("finished", 2)
    with open_federation(folder) as there:
        assert {row.name: row.digest for row in there.registry.experts()} == DIGESTS
        factors = {row.name: load_factors(there.store, row) for row in there.registry.experts()}
    ranks = {name: max(a.shape[0] for _, a in each.values()) for name, each in factors.items()}
    assert ranks == {"kitchen": 5, "xx": 2}


def test_its_mixture_is_loaded_and_made_again(folder: Path) -> None:
    with open_federation(folder) as there:
        base = base_of(there.config)
        stored = load_mixture(folder / "mixture", base)
        ids = torch.arange(20)[None]
        before = stored.model(ids).logits
        printed("assemble", folder)
        again = load_mixture(folder / "mixture", base).model(ids).logits
        torch.testing.assert_close(again, before)


def test_its_scores_are_read_and_made_again(folder: Path) -> None:
    scores = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    again = json.loads(printed("evaluate", folder, "--json"))
    for name, row in scores["bits_per_byte"].items():
        for model, value in row.items():
            if value:
                assert again["bits_per_byte"][name][model]["mean"] == pytest.approx(
                    value["mean"], rel=1e-4
                )


def test_its_text_is_generated(folder: Path) -> None:
    assert printed("generate", folder, "--prompt", "to bake", "--max-tokens", 4)


def test_its_owner_s_state_is_read(folder: Path) -> None:
    state = folder / "owner" / "state"
    assert read_ledger(state).bytes == 2751
    entry = Memory(next(state.glob("node-*"))).read("kitchen")
    assert entry is not None
    assert {a.shape[0] for _, a in entry.component.values()} == {2}
    with pytest.raises(EgressError):
        Answered(state).check("experts/1", "another task")
