"""An owner withdraws from a federation whose clients trained the router."""

import json

import pytest
import torch
from assertions import same_state
from places import interrupt_after_a_round
from thinning import rarer_slow

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.assemble import load_factors
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.coordinator.store.state_keys import ROUTER
from fedmore.experts.base.model import load_base
from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.checkpoint import load_mixture, read_recipe
from fedmore.experts.mixture.model import routed_blocks
from fedmore.experts.routers.serialization import load_router, make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.strategies.events import RoundFinished
from fedmore.strategies.router_stage.state import RouterState, dump, restore


def last_state(made):
    with made.registry() as registry:
        return restore(made.store.get(registry.rounds()[-1].metrics[STATE]))


def withdraw(made, *names):
    with made.registry() as registry:
        for name in names:
            registry.withdraw(name, "changed our mind")


def words(made):
    """Next-token scores of the mixture on disk."""
    mixture = load_mixture(made.directory / "mixture", load_base(made.config.base.model, "float32"))
    with torch.inference_mode():
        return mixture.model(input_ids=torch.arange(5, 17)[None], use_cache=False).logits


@pytest.mark.parametrize(
    ("name", "experts"),
    [("garden", ("kitchen", "xx")), ("kitchen-b", ("garden", "kitchen", "xx"))],
)
def test_after_the_plan_its_part_and_its_row_are_gone(straight, tmp_path, name, experts):
    """The router is what the others' parts make it; the mixture is assembled and scored with it."""
    made = straight.copy(tmp_path / "federation")
    before, trained = made.outcome(), last_state(made)
    withdraw(made, name)
    made.run()
    left = last_state(made)
    assert name not in left.parts
    assert left.parts.keys() == trained.parts.keys() - {name}
    router, known = made.router()
    alone = trained.without({name}).router().keeping([trained.experts.index(e) for e in experts])
    assert (tuple(known), left.experts) == (experts, experts)
    assert same_state(router, alone)
    assert not same_state(router, trained.router())
    assert tuple(e.name for e in read_recipe(made.directory / "mixture").experts) == experts
    assert torch.isfinite(words(made)).all()
    found = json.loads((made.directory / "evaluation.json").read_text(encoding="utf-8"))
    assert set(found["routing"]["kitchen"]) == {"public", *experts}
    assert not made.store.has(before["router"])
    assert not made.store.has(before["states"][2, 2])
    after = made.outcome()
    made.run()
    assert made.outcome() == after


def test_between_two_rounds_the_next_goes_on_without_it(routed, tmp_path):
    made = routed(tmp_path / "federation")

    with pytest.raises(KeyboardInterrupt):
        made.run(interrupt_after_a_round)
    withdraw(made, "garden")
    made.run()
    state = last_state(made)
    assert {name: part.updates for name, part in state.parts.items()} == {
        "foreign": 2, "kitchen-a": 2, "kitchen-b": 2
    }  # fmt: skip
    assert made.router()[1] == ["kitchen", "xx"]
    assert torch.isfinite(words(made)).all()


def test_while_all_are_connected_the_next_round_does_not_ask_it(routed, tmp_path):
    made, held = routed(tmp_path / "federation"), []

    def withdraw_now(event):
        if isinstance(event, RoundFinished) and event.round == 0:
            held[0].withdraw("kitchen-b")

    made.run(withdraw_now, held.append)
    with made.registry() as registry:
        first, last = (row.metrics for row in registry.rounds() if row.kind == "routing")
    assert first["clients"].keys() - last["clients"].keys() == {"kitchen-b"}
    assert last["failures"] == []
    assert last_state(made).parts.keys() == last["clients"].keys()


def test_before_the_stage_begins_fewer_are_asked(routed, tmp_path):
    """Also where ReMix was to choose from more arms than there are left."""
    made = routed(tmp_path / "federation", top_k=4)
    withdraw(made, "garden", "foreign")
    made.run()
    assert set(last_state(made).parts) == {"kitchen-a", "kitchen-b"}
    router, known = made.router()
    assert known == ["kitchen"]
    assert router.spec.top_k == (2 if router.spec.kind == "remix" else 4)
    assert torch.isfinite(words(made)).all()


def test_when_all_have_withdrawn_there_is_no_mixture(straight, tmp_path):
    made = straight.copy(tmp_path / "federation")
    withdraw(made, "garden", "foreign", "kitchen-a", "kitchen-b")
    with pytest.raises(ConfigError, match="trains an expert"):
        made.run()
    assert last_state(made).parts == {}


@pytest.mark.parametrize("kind", rarer_slow(["softmax", "xlora"], ["xlora"]))
def test_a_router_with_a_decision_for_every_layer_outlives_them_too(begun, tmp_path, kind):
    """Rows of what is left; with nothing left, no error, and twice changes nothing."""
    made = begun.copy(tmp_path / "federation")
    with made.registry() as registry:
        experts = _experts(made, registry)
        blocks = routed_blocks(experts)
        state = trained(RouterSpec(kind, 3, 64, len(blocks), hidden=4), tuple(experts), blocks)
        metrics = {STATE: made.store.put(dump(state)), "clients": {}}
        registry.add_round(stage=2, kind="routing", round=1, metrics=metrics)
        for name in ("garden", "kitchen-a", "kitchen-b", "foreign"):
            registry.withdraw(name)
            for _ in "twice":
                leave_out(Federation(made.directory, made.config, registry, made.store))
                found = restore(made.store.get(registry.rounds()[-1].metrics[STATE]))
                assert name not in found.parts
                assert found.experts == (tuple(_experts(made, registry)) or ("xx",))
                router, _ = load_router(made.store.get(registry.get_state(ROUTER)))
                assert same_state(router, found.router())


def trained(spec, experts, blocks):
    """A router that three clients have a part in."""
    router = make_router(spec)
    changes = {
        client: {name: torch.randn(p.shape) for name, p in router.named_parameters()}
        for client in ("garden", "foreign", "kitchen-a")
    }
    return RouterState(experts, blocks, router).advanced(changes)


def _experts(made, registry):
    names = sorted({row.name for row in registry.experts()})
    return {name: load_factors(made.store, registry.latest(name)) for name in names}
