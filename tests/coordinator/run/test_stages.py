"""A whole plan over clients in this process: straight through, and interrupted everywhere."""

import json

import pytest
import torch
from places import CLIENTS, STAGES, make_material, place
from thinning import rarer_slow

from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.base.model import load_base
from fedmore.experts.errors import ConfigError, RoundError
from fedmore.experts.mixture.checkpoint import load_mixture, read_recipe
from fedmore.strategies.events import Evaluated, RoundFinished, RoundStarted, StageStarted
from fedmore.strategies.expert_stage.snapshot import restore

ROUNDS = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A base and texts, made once."""
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def straight(material, tmp_path_factory):
    """The plan without interruptions, and its events."""
    torch.set_num_threads(1)
    events = []
    made = place(material, tmp_path_factory.mktemp("straight") / "federation")
    made.run(events.append)
    return made, events


def key(event):
    """What tells one moment of the plan from another."""
    where = getattr(event, "stage", None), getattr(event, "round", None)
    return type(event).__name__, *where, getattr(event, "name", None)


class InterruptedRunError(Exception):
    """Somebody pulled the plug."""


def test_the_plan_goes_through_its_stages_and_rounds(straight):
    _, events = straight
    started = [(e.stage, e.kind, e.rounds) for e in events if isinstance(e, StageStarted)]
    assert started == [(0, "experts", 2), (1, "language", 2), (2, "router", 1)]
    for kind in (RoundStarted, RoundFinished):
        assert [(e.stage, e.round + 1) for e in events if isinstance(e, kind)] == ROUNDS
    evaluated = [e.name for e in events if isinstance(e, Evaluated)]
    assert evaluated == ["experts", "language", "mixture"]


def test_every_version_is_in_the_registry_with_its_blob(straight):
    made, _ = straight
    store = Store(made.directory / "blobs")
    with Registry.open(made.directory) as registry:
        versions = {(e.name, e.stage, e.round): e for e in registry.experts()}
        rounds = registry.rounds()
    assert set(versions) == {
        ("kitchen", 0, 1), ("kitchen", 0, 2), ("garden", 0, 1), ("garden", 0, 2),
        ("xx", 1, 1), ("xx", 1, 2),
    }  # fmt: skip
    assert all(store.has(e.digest) for e in versions.values())
    assert (versions["kitchen", 0, 2].rank, versions["xx", 1, 2].rank) == (7, 3)
    assert (versions["kitchen", 0, 2].kind, versions["xx", 1, 2].kind) == ("expert", "adapter")
    assert [(r.stage, r.round, r.kind) for r in rounds][:2] == [
        (0, 1, "experts"),
        (0, 2, "experts"),
    ]
    last = restore(store.get(rounds[1].metrics[STATE]))
    assert {n: p.updates for n, p in last["kitchen"].components.items()} == {
        "kitchen-a": 2,
        "kitchen-b": 2,
    }


def test_the_metrics_of_a_round(straight):
    made, _ = straight
    with Registry.open(made.directory) as registry:
        metrics = registry.rounds()[0].metrics
        tokens = {m.name: m.train_tokens for m in registry.members()}
    assert set(metrics["clients"]) == {"kitchen-a", "kitchen-b", "garden"}
    assert metrics["clients"]["garden"]["tokens"] == 2 * 2 * 32
    assert metrics["experts"]["kitchen"]["aggregation_error"] < 1e-6
    assert len(metrics["experts"]["kitchen"]["digest"]) == 64
    assert metrics["failures"] == []
    assert tokens == dict.fromkeys(tokens, 2 * 2 * 2 * 32)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(straight, material, tmp_path):
    again = place(material, tmp_path / "again")
    again.run()
    assert again.outcome() == straight[0].outcome()


@pytest.mark.parametrize("stop", rarer_slow(ROUNDS[:4], ()))
def test_interrupted_after_a_round_the_result_is_the_same(straight, material, tmp_path, stop):
    made = place(material, tmp_path / "federation")

    def pull(event):
        if isinstance(event, RoundFinished) and (event.stage, event.round + 1) == stop:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        made.run(pull)
    seen = []
    made.run(seen.append)
    done = ROUNDS.index(stop) + 1
    finished = [(e.stage, e.round + 1) for e in seen if isinstance(e, RoundFinished)]
    assert finished == ROUNDS[done:]
    assert made.outcome() == straight[0].outcome()


def test_interrupted_at_every_moment_in_turn_the_result_is_the_same(straight, material, tmp_path):
    """The plug is pulled at each event the first time that it happens, one life after another."""
    made, seen = place(material, tmp_path / "federation"), set()

    def pull(event):
        if key(event) not in seen:
            seen.add(key(event))
            raise InterruptedRunError

    lives = 1
    while True:
        try:
            made.run(pull)
            break
        except InterruptedRunError:
            lives += 1
    assert seen == {key(event) for event in straight[1]}
    assert lives == len(seen) + 1
    assert made.outcome() == straight[0].outcome()


def test_a_round_that_was_not_written_down_is_done_again(straight, material, tmp_path):
    """The clients have moved on, the coordinator has not: they answer as they did before."""
    made, failed = place(material, tmp_path / "federation"), set()

    def fail_once(registry):
        write = registry.add_round

        def add_round(**row):
            if (at := (row["stage"], row["round"])) not in failed:
                failed.add(at)
                raise InterruptedRunError
            return write(**row)

        registry.add_round = add_round

    for _ in ROUNDS:
        with pytest.raises(InterruptedRunError):
            made.run(prepare=fail_once)
    made.run(prepare=fail_once)
    assert failed == set(ROUNDS)
    assert made.outcome() == straight[0].outcome()


@pytest.mark.slow
def test_clients_that_lost_their_state_go_on(straight, material, tmp_path):
    """Not bit for bit, since what error feedback owed is gone, but with the same history."""
    made = place(material, tmp_path / "federation")

    def pull(event):
        if isinstance(event, RoundFinished):
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        made.run(pull)
    for file in (made.directory / "of").rglob("*.safetensors"):
        file.unlink()
    made.run()
    found, wanted = made.outcome(), straight[0].outcome()
    assert found["experts"]["kitchen", 0, 1] == wanted["experts"]["kitchen", 0, 1]
    assert found["experts"]["kitchen", 0, 2] != wanted["experts"]["kitchen", 0, 2]
    assert set(found["experts"]) == set(wanted["experts"])


def test_a_finished_plan_run_again_trains_nothing(straight, tmp_path, monkeypatch):
    made, _ = straight
    before, seen = made.outcome(), []
    made.run(seen.append)
    assert not [e for e in seen if isinstance(e, RoundStarted | RoundFinished)]
    assert made.outcome() == before


def test_the_mixture_is_of_the_newest_versions(straight):
    made, _ = straight
    recipe = read_recipe(made.directory / "mixture")
    with Registry.open(made.directory) as registry:
        newest = {name: registry.latest(name).digest for name in ("garden", "kitchen", "xx")}
    assert {e.name: e.digest for e in recipe.experts} == newest
    mixture = load_mixture(made.directory / "mixture", load_base(made.config.base.model, "float32"))
    assert list(mixture.experts) == ["garden", "kitchen", "xx"]


def test_the_evaluation_has_every_text(straight):
    made, _ = straight
    found = json.loads((made.directory / "evaluation.json").read_text(encoding="utf-8"))
    scores = found["bits_per_byte"]
    assert set(scores) == {"kitchen", "garden", "xx", "plain", "sums"}
    for name in ("kitchen", "garden", "xx"):
        assert scores[name]["own_expert"]["mean"] < scores[name]["base"]["mean"]
    assert scores["plain"]["own_expert"] is None
    stages = [entry["stage"] for entry in found["forgetting"]]
    assert stages == ["experts", "language", "router"]
    assert set(found["forgetting"][0]["bits_per_byte"]) == {"kitchen", "garden", "plain"}
    assert set(found["forgetting"][1]["bits_per_byte"]) == {"kitchen", "garden", "xx", "plain"}


def test_a_plan_that_trains_nothing_says_so(material, tmp_path):
    made = place(material, tmp_path / "federation", stages=[STAGES[2]])
    with pytest.raises(ConfigError, match="no stage of the plan trains an expert"):
        made.run()


def test_a_stage_that_nobody_trains_says_so(material, tmp_path):
    made = place(material, tmp_path / "federation", stages=[STAGES[1]])
    with pytest.raises(RoundError, match="no client trains for the stage 'language'"):
        made.run(clients=CLIENTS[:1])
