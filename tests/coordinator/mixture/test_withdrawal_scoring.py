"""What is left after a withdrawal is scored, and scaled, held back or kept as the plan says."""

from dataclasses import replace

import pytest
import torch

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.config.sections import WithdrawalSection
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import in_use
from fedmore.coordinator.mixture import withdrawal_scoring
from fedmore.coordinator.mixture.versions import HELD_BACK, STATE, keep_version
from fedmore.coordinator.mixture.withdrawal import leave_out, outcomes
from fedmore.coordinator.mixture.withdrawal_scoring import judged
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.spec import TargetModule
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import fresh, without
from fedmore.strategies.expert_stage.step import advance
from fedmore.strategies.stages.expert import ExpertStage

SITES = (TargetModule("model.layers.0.mlp.up_proj", 14, 9),)
PATH = SITES[0].path


def change(name, seed):
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(14, 2, generator=g), torch.randn(2, 9, generator=g)
    return Change(name, {PATH: (b * 0, a)}, {PATH: (b, a)}, 1.0, 2.0)


@pytest.fixture
def shared():
    state, _ = advance(fresh("legal", "expert", SITES), [change("a", 1), change("b", 2)], 64)
    return state


def product(factors):
    b, a = factors[PATH]
    return b.double() @ a.double()


def scorer(target):
    """Bits per byte grow with the distance from a change that would be right; the base has 2."""
    size = float(target.norm())

    def score(factors):
        here = torch.zeros_like(target) if factors is None else product(factors)
        return 1.0 + float((here - target).norm()) / size

    return score


def outcome(shared, target, **section):
    left, error = without(shared, {"b"}, 64)
    config = WithdrawalSection(**section)
    return judged(
        config, scorer(target(shared, left)), shared, left, error, ExpertStage(max_rank=64)
    ), left


def good(_, left):
    return product(left.aggregate)


def too_large(shared, left):
    return 0.4 * product(left.aggregate) + 0.1 * product(shared.aggregate)


def opposite(_, left):
    return -product(left.aggregate)


@pytest.mark.parametrize("when_worse", ["scale", "hold", "keep"])
def test_what_is_as_good_as_before_is_kept(shared, when_worse):
    found, left = outcome(shared, good, when_worse=when_worse)
    assert found.state is left
    assert found.told["withdrawal"] == "kept"
    assert found.told["scores"]["after"] < found.told["scores"]["before"]


def test_what_is_worse_is_scaled_by_the_factor_that_fits(shared):
    found, left = outcome(shared, too_large)
    target = too_large(shared, left)
    best = float((target * product(left.aggregate)).sum() / product(left.aggregate).norm() ** 2)
    factor = float(product(found.state.aggregate).norm() / product(left.aggregate).norm())
    assert factor == pytest.approx(best, abs=0.06)
    scores = found.told["scores"]
    assert scores["scaled"] < scores["after"]
    assert scores["scaled"] < scores["base"]
    assert found.told["withdrawal"].startswith(f"scaled by {factor:.2f} to ")


@pytest.mark.parametrize(
    ("target", "when_worse", "held"),
    [
        (too_large, "hold", True),
        (opposite, "hold", True),
        (opposite, "scale", True),  # no factor is better than the base
        (opposite, "keep", False),
    ],
)
def test_what_is_worse_and_cannot_be_scaled_is_held_back(shared, target, when_worse, held):
    found, left = outcome(shared, target, when_worse=when_worse)
    assert (HELD_BACK in found.told) == held
    assert found.state is left


@pytest.mark.parametrize(
    ("text", "target", "told"),
    [
        (False, good, "not scored: evaluation.texts names no text for legal"),
        (True, good, "made anew without it; kept"),
        (True, too_large, "made anew without it; scaled by "),
        (True, opposite, "held back, "),
    ],
)
def test_a_withdrawal_scores_before_it_keeps(tmp_path, monkeypatch, shared, text, target, told):
    section = {"federation": {"name": "test"}, "base": {"model": "somewhere"}}
    texts = {"legal": str(tmp_path / "legal.jsonl")} if text else {}
    config = parse_config({**section, "evaluation": {"texts": texts}}, "test")
    config = replace(config, stages=config.stages[:1])
    left, _ = without(shared, {"b"}, 64)
    score = scorer(target(shared, left))
    monkeypatch.setattr(withdrawal_scoring, "scorer_of", lambda *_: score)
    with Registry.open(tmp_path) as registry:
        store = Store(tmp_path / "blobs")
        for name in ("a", "b"):
            registry.enrol(registry.invite(name), name, "expert", "legal", 2)
        entry = shared.summary(0.0)
        there = Federation(tmp_path, config, registry, store)
        entry["digest"] = keep_version(there, shared, (0, 1), entry)
        state = store.put(dump({"legal": shared}))
        metrics = {"experts": {"legal": entry}, STATE: state}
        registry.add_round(stage=0, kind="experts", round=1, metrics=metrics)
        registry.withdraw("b")
        assert leave_out(Federation(tmp_path, config, registry, store)) == ["legal"]
        held = "held back" in told
        assert [row.name for row in registry.experts()] == ["legal"], "a held version is kept"
        assert list(in_use(registry)) == ([] if held else ["legal"])
        (line,) = outcomes(registry, ["legal"])["legal"]
        assert told in line
        kept = restore(store.get(registry.rounds()[-1].metrics[STATE]))["legal"]
        assert set(kept.components) == {"a"}, "what is held back can be trained on"
        assert leave_out(Federation(tmp_path, config, registry, store)) == []
