"""A new version of an expert is promoted, or held, by its score beside the promoted one."""

import json

import pytest
from contributed import contribution, trained_folder
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app
from fedmore.coordinator.config.schema import load_config
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.lineage.promotion import in_use, promoted, state_of, why_held
from fedmore.coordinator.mixture import gate
from fedmore.coordinator.mixture.gate import verdict
from fedmore.coordinator.mixture.repacking import repacked
from fedmore.coordinator.mixture.versions import HELD_BACK, STATE, keep_version
from fedmore.coordinator.store.state_keys import HELD
from fedmore.experts.scoring.bits_per_byte import Score
from fedmore.strategies.expert_stage.snapshot import restore
from fedmore.strategies.expert_stage.step import advance

GATE = '[gate]\nmargin = 0.1\n[gate.texts]\nlegal = "legal.jsonl"\n'
NATS = (7.0, 6.0, 8.0, 7.0)


@pytest.fixture
def hub(tmp_path):
    return trained_folder(tmp_path / "hub", rounds=2, more=GATE)


@pytest.fixture
def worse(monkeypatch):
    """Set its `by`: how much worse the version is that is scored second."""

    class Worse:
        by = 0.0

        def __call__(self, *_):
            factors = iter((1.0, 1.0 + self.by))
            return lambda _: [Score(nats * size, 10) for size in [next(factors)] for nats in NATS]

    found = Worse()
    monkeypatch.setattr(gate, "document_scores", found)
    return found


def next_round(there):
    """A third version of legal, through the gate as a running coordinator's."""
    blob = there.registry.rounds()[-1].metrics[STATE]
    state = restore(there.store.get(blob), there.config.stages[0])["legal"]
    state, _ = advance(state, [contribution("a", 77)], 512)
    entry = {"owners": state.owners}
    entry |= verdict(there, "legal", state.aggregate, entry)
    keep_version(there, state, (0, 3), entry)
    return entry


@pytest.mark.parametrize(
    ("by", "held"), [(-0.2, False), (0.0, False), (0.099, False), (0.101, True), (3.0, True)]
)
def test_a_version_is_held_if_its_mean_is_worse_by_more_than_the_margin(hub, worse, by, held):
    worse.by = by
    with open_federation(hub) as there:
        before = promoted(there.registry, "legal")
        entry = next_round(there)
        newest = there.registry.latest("legal")
        assert (HELD_BACK in entry) == held
        assert state_of(there.registry, newest) == ("held" if held else "promoted")
        assert promoted(there.registry, "legal").digest == (before if held else newest).digest
        assert entry["scores"]["paired"]["ci95"] is not None
        assert ("legal" in why_held(there.registry)) == held
    if held:
        status = json.loads(CliRunner().invoke(app, ["status", str(hub), "--json"]).output)
        assert status["left_out"]["legal"].startswith("held back, ")
        assert "[+" in status["left_out"]["legal"], "the interval is shown"
        assert "of which 10.0% may be lost" in status["left_out"]["legal"]


def test_a_held_version_is_not_the_yardstick_of_the_next(hub, worse):
    worse.by = 3.0
    with open_federation(hub) as there:
        before = promoted(there.registry, "legal")
        next_round(there)
        worse.by = 0.0
        entry = next_round(there)
        assert HELD_BACK not in entry
        assert promoted(there.registry, "legal").digest != before.digest
        assert why_held(there.registry) == {}


def test_without_a_text_a_version_is_promoted_and_nothing_is_scored(tmp_path, monkeypatch):
    hub = trained_folder(tmp_path / "hub")
    monkeypatch.setattr(gate, "document_scores", lambda *_: pytest.fail("scored"))
    with open_federation(hub) as there:
        next_round(there)
        used = promoted(there.registry, "legal")
        assert (used.round, used.digest) == (3, there.registry.latest("legal").digest)
        assert "scores" not in used.metrics


def test_a_cut_that_costs_too_much_is_held(hub, worse):
    worse.by = 1.0
    with open_federation(hub) as there:
        whole = there.registry.latest("legal")
        cut = repacked(there, "legal", 1).row
        assert state_of(there.registry, cut) == "held"
        assert promoted(there.registry, "legal").digest == whole.digest


def test_an_expert_that_an_earlier_fedmore_held_back_is_still_held(hub, monkeypatch):
    scores = {"before": 1.0, "base": 2.0, "after": 3.0}
    now = [2.5, 1.005]
    monkeypatch.setattr(gate, "scorer_of", lambda *_: lambda _: now.pop(0))
    with open_federation(hub) as there:
        registry = there.registry
        registry.set_state(HELD, {"legal": {"why": "it became worse", "scores": scores}})
        assert list(in_use(registry)) == ["medical"]
        assert next_round(there)[HELD_BACK] == "it became worse"
        assert why_held(registry) == {"legal": "it became worse"}
        assert next_round(there)["withdrawal"] == "held back no more: 1.005 bits per byte"
        assert promoted(registry, "legal").digest == registry.latest("legal").digest


def test_relative_texts_of_the_gate_start_at_the_folder(hub):
    assert load_config(hub).gate.texts == {"legal": str(hub.resolve() / "legal.jsonl")}
