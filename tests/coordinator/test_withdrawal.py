"""An owner that withdraws: what is left is what the others made, and no file holds its part."""

import pytest
import torch

from fedmore.coordinator.config import parse_config
from fedmore.coordinator.registry import Registry
from fedmore.coordinator.store import Store
from fedmore.coordinator.versions import STATE, keep_version
from fedmore.coordinator.withdrawal import leave_out
from fedmore.experts.spec import Site
from fedmore.strategies.snapshot import dump, restore
from fedmore.strategies.state import Contribution, advance, fresh, without

SITES = (Site("model.layers.0.mlp.up_proj", 14, 9),)


def contribution(name, seed, rank=2):
    g = torch.Generator().manual_seed(seed)
    pairs = {s.path: (s.out, s.inner) for s in SITES}
    after = {
        path: (torch.randn(out, rank, generator=g), torch.randn(rank, inner, generator=g))
        for path, (out, inner) in pairs.items()
    }
    return Contribution(name, after, 1.0, 2.0)


@pytest.fixture
def kept(tmp_path):
    """Two rounds of a stage: legal is a's and b's, medical is m's."""
    config = parse_config(
        {
            "federation": {"name": "test"},
            "base": {"model": "somewhere"},
            "stages": [{"kind": "experts", "rounds": 2}],
        },
        "test",
    )
    with Registry.open(tmp_path) as registry:
        for name in ("a", "b", "m"):
            registry.enrol(registry.invite(name), name, "expert", "legal", 2)
        store = Store(tmp_path / "blobs")
        states = {n: fresh(n, "expert", SITES) for n in ("legal", "medical")}
        for number in (1, 2):
            for name, owners in (("legal", "ab"), ("medical", "m")):
                items = [contribution(o, 10 * number + ord(o)) for o in owners]
                states[name], _ = advance(states[name], items, 512)
            write_round(registry, store, states, number)
        yield config, registry, store, states


def write_round(registry, store, states, number):
    entries = {}
    for name, state in states.items():
        entry = {"owners": sorted(state.components)}
        entries[name] = {
            **entry,
            "digest": keep_version(registry, store, state, (0, number), entry),
        }
    metrics = {"experts": entries, STATE: store.put(dump(states))}
    registry.add_round(stage=0, kind="experts", round=number, metrics=metrics)


def versions(registry):
    return {(row.name, row.round): row.digest for row in registry.experts()}


def test_nobody_withdrawn_changes_nothing(kept):
    config, registry, store, _ = kept
    before = versions(registry)
    assert leave_out(config, registry, store) == []
    assert versions(registry) == before


def test_a_part_is_taken_out_of_what_others_share(kept):
    config, registry, store, states = kept
    before, old_state = versions(registry), registry.rounds()[-1].metrics[STATE]
    registry.withdraw("a", "changed our mind")
    assert leave_out(config, registry, store) == ["legal"]
    after = versions(registry)
    assert set(after) == {("legal", 2), ("medical", 1), ("medical", 2)}
    assert not store.has(before["legal", 1])
    assert not store.has(before["legal", 2])
    assert not store.has(old_state)
    metrics = registry.rounds()[-1].metrics
    left = restore(store.get(metrics[STATE]))
    alone, _ = without(states["legal"], {"a"}, 512)
    assert set(left["legal"].components) == {"b"}
    for path, pair in alone.aggregate.items():
        found = left["legal"].aggregate[path]
        assert all(torch.equal(x, y) for x, y in zip(found, pair, strict=True))
    assert metrics["experts"]["legal"]["owners"] == ["b"]
    assert metrics["experts"]["legal"]["digest"] == after["legal", 2]
    assert leave_out(config, registry, store) == []
    assert versions(registry) == after


def test_an_expert_whose_owners_all_withdrew_is_no_more(kept):
    config, registry, store, _ = kept
    registry.withdraw("m")
    assert leave_out(config, registry, store) == ["medical"]
    assert {name for name, _ in versions(registry)} == {"legal"}
    assert "digest" not in registry.rounds()[-1].metrics["experts"]["medical"]


def test_versions_of_earlier_rounds_go_even_where_the_last_is_clean(kept):
    """The strategy has left the owner out already; what it was part of before is still there."""
    config, registry, store, states = kept
    states["legal"], _ = without(states["legal"], {"a"}, 512)
    write_round(registry, store, states, 3)
    registry.withdraw("a")
    assert leave_out(config, registry, store) == []
    assert {key for key in versions(registry) if key[0] == "legal"} == {("legal", 3)}
