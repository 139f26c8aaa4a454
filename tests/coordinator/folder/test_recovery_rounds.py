"""After a withdrawal the remaining owners train on: in a coordinator that runs, and in a later one.

What an expert scores is decided here, since no text of this size decides it.
"""

from dataclasses import replace

import pytest
from places import SHARED, config_of, make_material, place

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.config.terms import terms_of
from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import entry_of, in_use, state_of
from fedmore.coordinator.mixture import gate, withdrawal_scoring
from fedmore.coordinator.mixture.versions import HELD_BACK
from fedmore.coordinator.mixture.withdrawal import leave_out, outcomes
from fedmore.coordinator.monitor.status import status
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import FINISHED, INTERRUPTED, PHASE
from fedmore.experts.mixture.checkpoint import read_recipe
from fedmore.strategies.events import RoundFinished
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.terms import changes

KITCHENS = (
    ("garden", "expert", "garden", 4, "garden"),
    ("kitchen-a", "expert", "kitchen", 2, "kitchen"),
    ("kitchen-b", "expert", "kitchen", 5, "kitchen"),
)
LEFT = KITCHENS[:2]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material"))


class Scores:
    """The base has 2.0 bits per byte, an expert 1.0 before a withdrawal and 3.0 after it.

    What is left is best at 0.4 of its size. Once `good`, everything has 0.9.
    """

    def __init__(self):
        self.good, self.calls, self.size = False, 0, 0.0

    def __call__(self, factors):
        if factors is None:
            return 2.0
        self.calls += 1
        if self.good or self.calls < 3:
            self.size = norm(factors)
            return 0.9 if self.good else (1.0, 3.0)[self.calls - 1]
        return 1.1 + abs(norm(factors) / self.size - 0.4)


def norm(factors):
    return sum(float((b @ a).norm()) ** 2 for b, a in factors.values()) ** 0.5


@pytest.fixture
def scores(monkeypatch):
    found = Scores()
    for module in (withdrawal_scoring, gate):
        monkeypatch.setattr(module, "scorer_of", lambda *_: found)
    return found


def federation(material, folder, **section):
    stages = [{"kind": "experts", "rounds": 2, **SHARED}]
    changed = {"stages": stages, "router": {"kind": "uniform"}, "withdrawal": section}
    return place(material, folder, **changed)


def withdrawn_after_round_1(run):
    """An observer by which kitchen-b withdraws while the plan goes on."""

    def observer(event):
        if isinstance(event, RoundFinished) and event.round == 0:
            with Registry.open(run.directory) as registry:
                registry.withdraw("kitchen-b")

    return observer


@pytest.mark.parametrize(
    ("when_worse", "held", "told"),
    [
        pytest.param("scale", False, "scaled by 0.4", marks=pytest.mark.slow),
        pytest.param("keep", False, "kept though 3.000", marks=pytest.mark.slow),
        pytest.param("hold", True, "3.000 bits per byte after 1.000", marks=pytest.mark.slow),
        ("recover", True, "3.000 bits per byte after 1.000"),
    ],
)
def test_a_coordinator_that_runs_chooses_as_one_that_stands(
    material, tmp_path, scores, when_worse, held, told
):
    run = federation(material, tmp_path / "f", when_worse=when_worse, recovery_rounds=3)
    run.run(withdrawn_after_round_1(run), clients=KITCHENS)
    with Registry.open(run.directory) as registry:
        entry = registry.rounds()[-1].metrics["experts"]["kitchen"]
        assert entry["owners"] == ["kitchen-a"]
        assert entry["withdrawal"].startswith(told)
        assert (HELD_BACK in entry) == ("yardstick" in entry_of(registry, "kitchen")) == held
        newest = registry.latest("kitchen")
        assert newest.digest == entry["digest"]
        assert state_of(registry, newest) == ("held" if held else "promoted")
        there = Federation(run.directory, run.config, registry, Store(run.directory))
        left_out = status(there)["left_out"].get("kitchen", "")
        assert left_out.startswith(f"held back, {told}" if held else "")
        assert bool(left_out) == held
        assert ("kitchen" in in_use(registry)) != held
        ahead = {"experts": ["kitchen"]} if when_worse == "recover" else {}
        assert recovery_rounds.ahead(run.config, registry) == ahead
    names = [each.name for each in read_recipe(run.directory / "mixture").experts]
    assert names == (["garden"] if held else ["garden", "kitchen"])


@pytest.mark.slow
def test_an_expert_that_trains_on_in_the_same_plan_is_let_go(material, tmp_path, scores):
    run = federation(material, tmp_path / "f", when_worse="hold")
    note = withdrawn_after_round_1(run)

    def observer(event):
        note(event)
        if isinstance(event, RoundFinished) and event.round == 1:
            scores.good = True

    longer = [{"kind": "experts", "rounds": 3, **SHARED}]
    run.config = config_of(
        material, stages=longer, router={"kind": "uniform"}, withdrawal={"when_worse": "hold"}
    )
    run.run(observer, clients=KITCHENS)
    with Registry.open(run.directory) as registry:
        second, third = (row.metrics["experts"]["kitchen"] for row in registry.rounds()[1:])
        assert HELD_BACK in second
        assert third["withdrawal"].startswith("held back no more: 0.900")
        assert registry.latest("kitchen").round == 3
        assert "yardstick" not in entry_of(registry, "kitchen")
        assert state_of(registry, registry.latest("kitchen")) == "promoted"


def test_only_the_remaining_owners_of_the_expert_recover(material, tmp_path, scores):
    run = federation(material, tmp_path / "f")
    run.run(clients=KITCHENS)
    with Registry.open(run.directory) as registry:
        registry.set_state(PHASE, FINISHED)
        store = Store(run.directory / "blobs")
        registry.withdraw("kitchen-b")
        wanted = recovery_rounds.recovering(run.config, 2)
        there = Federation(run.directory, wanted, registry, store)
        assert leave_out(there) == ["kitchen"]
        held, rounds = outcomes(registry, ["kitchen"])["kitchen"]
        assert held.startswith("held back, 3.000")
        assert rounds == "2 recovery rounds of its remaining owners"
        assert registry.get_state(PHASE) == INTERRUPTED
        agreed, run.config = run.config, recovery_rounds.with_recovery(run.config, registry)
        asked = changes(terms_of(agreed), terms_of(run.config))
        assert asked == ["experts: rounds is 4, agreed was 2"]
    scores.good = True
    run.run(clients=LEFT)
    with Registry.open(run.directory) as registry:
        trained = [sorted(row.metrics["clients"]) for row in registry.rounds()]
        assert trained[1:] == [["garden", "kitchen-a", "kitchen-b"], ["kitchen-a"], ["kitchen-a"]]
        assert registry.latest("kitchen").round == 4
        assert recovery_rounds.ahead(run.config, registry) == {}
    names = [each.name for each in read_recipe(run.directory / "mixture").experts]
    assert names == ["garden", "kitchen"]


STAGE = ExpertStage(rounds=3)


@pytest.fixture
def registry(tmp_path):
    with Registry.open(tmp_path) as opened:
        yield opened


def rounds(registry, count):
    for number in range(1, count + 1):
        metrics = {"experts": {}, "clients": {}}
        registry.add_round(stage=0, kind="experts", round=number, metrics=metrics)


@pytest.mark.parametrize(
    ("done", "asked", "total"),
    [
        (3, [("legal", 2)], 5),
        (2, [("legal", 2)], 5),  # the plan's own rounds come first
        (3, [("legal", 2), ("medical", 2)], 5),  # side by side
        (3, [("legal", 1), ("medical", 3)], 6),
        (3, [("legal", 2), ("legal", 2)], 5),
    ],
)
def test_recovery_rounds_follow_those_of_the_plan(registry, done, asked, total):
    config = parse_config({"federation": {"name": "x"}, "base": {"model": "y"}}, "test")
    config = replace(config, stages=(STAGE,))
    rounds(registry, done)
    for expert, count in asked:
        recovery_rounds.add(registry, STAGE, 0, expert, count)
    (stage,) = recovery_rounds.with_recovery(config, registry).stages
    assert stage.rounds == total
    assert recovery_rounds.asks(registry, stage, 3, "other")
    assert not recovery_rounds.asks(registry, stage, 4, "other")
    assert all(recovery_rounds.asks(registry, stage, total, expert) for expert, _ in asked)


def test_a_second_recovery_is_of_its_own_experts(registry):
    rounds(registry, 3)
    recovery_rounds.add(registry, STAGE, 0, "legal", 2)
    rounds(registry, 5)
    recovery_rounds.add(registry, STAGE, 0, "medical", 1)
    stage = replace(STAGE, rounds=6)
    assert recovery_rounds.asks(registry, stage, 6, "medical")
    assert not recovery_rounds.asks(registry, stage, 6, "legal")
