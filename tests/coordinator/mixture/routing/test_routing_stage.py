"""A whole plan that ends with a router trained at the clients: straight and interrupted."""

import json

import pytest
from places import interrupt_after_a_round

from fedmore.coordinator.mixture.versions import STATE
from fedmore.experts.base.model import load_base
from fedmore.experts.mixture.checkpoint import load_mixture
from fedmore.strategies.events import RoundFinished
from fedmore.strategies.router_stage.state import restore

ROUTING = 2  # the stage's index
EVERYBODY = {"kitchen-a", "kitchen-b", "garden", "foreign"}


def test_the_evaluation_names_the_router(straight):
    found = json.loads((straight.directory / "evaluation.json").read_text(encoding="utf-8"))
    kind = straight.config.router.kind
    assert (found["mixture"]["router"], found["mixture"]["top_k"]) == (kind, 2)
    assert set(found["bits_per_byte"]) == {"kitchen", "garden", "xx"}
    assert [entry["router"] for entry in found["forgetting"]] == ["uniform", "uniform", kind]
    for used in found["routing"].values():
        assert set(used) == {"public", "kitchen", "garden", "xx"}
        assert sum(used.values()) == pytest.approx(1.0, abs=1e-5)


def test_the_mixture_has_the_router_that_the_clients_trained(straight):
    router, experts = straight.router()
    base = load_base(straight.config.base.model, "float32")
    mixture = load_mixture(straight.directory / "mixture", base)
    assert list(mixture.experts) == experts == ["garden", "kitchen", "xx"]
    assert mixture.router.spec == router.spec
    assert repr(mixture.router.state_dict()) == repr(router.state_dict())
    assert all(p.detach().any() for p in router.parameters())  # it began at zero
    assert float(router.features.origin_LD.abs().max()) > 0  # of public text


def test_every_client_has_a_part_of_the_sum(straight):
    with straight.registry() as registry:
        rows = [row for row in registry.rounds() if row.stage == ROUTING]
        tokens = {m.name: m.train_tokens for m in registry.members()}
    assert [(row.kind, row.round) for row in rows] == [("routing", 1), ("routing", 2)]
    assert all(set(row.metrics["clients"]) == EVERYBODY for row in rows)
    state = restore(straight.store.get(rows[-1].metrics[STATE]))
    assert {name: part.updates for name, part in state.parts.items()} == dict.fromkeys(EVERYBODY, 2)
    assert repr(state.router().state_dict()) == repr(straight.router()[0].state_dict())
    assert set(tokens.values()) == {3 * 2 * 2 * 16}


def test_only_the_last_round_is_kept(straight):
    with straight.registry() as registry:
        first, last = (row for row in registry.rounds() if row.stage == ROUTING)
        assert straight.store.digests() == registry.digests() - {first.metrics[STATE]}
    assert straight.store.has(last.metrics[STATE])


def test_interrupted_after_a_round_the_result_is_the_same(straight, routed, tmp_path):
    made = routed(tmp_path / "federation")

    with pytest.raises(KeyboardInterrupt):
        made.run(interrupt_after_a_round)
    seen = []
    made.run(seen.append)
    finished = [(e.stage, e.round) for e in seen if isinstance(e, RoundFinished)]
    assert finished == [(ROUTING, 1)]
    assert made.outcome() == straight.outcome()


def test_a_round_that_was_not_written_down_is_done_again(straight, routed, tmp_path):
    """The clients have moved on, the coordinator has not: they answer as they did before."""
    made = routed(tmp_path / "federation")

    def fail(registry):
        write = registry.add_round

        def add_round(**row):
            if row["round"] == 2:
                raise KeyboardInterrupt
            return write(**row)

        registry.add_round = add_round

    with pytest.raises(KeyboardInterrupt):
        made.run(prepare=fail)
    made.run()
    assert made.outcome() == straight.outcome()


def test_a_finished_plan_run_again_trains_nothing(straight, tmp_path):
    made, seen = straight.copy(tmp_path / "again"), []
    made.run(seen.append)
    assert not [event for event in seen if isinstance(event, RoundFinished)]
    assert made.outcome() == straight.outcome()
