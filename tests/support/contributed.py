"""Experts of one small matrix, whose owners' contributions are drawn: no model trains here."""

import torch

from fedmore.coordinator.mixture.versions import STATE, keep_version
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import TargetModule
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.snapshot import dump

SPEC = RouterSpec("uniform", 0, 64)
SITES = (TargetModule("model.layers.0.mlp.up_proj", 14, 9),)


def contribution(name, seed, rank=2):
    g = torch.Generator().manual_seed(seed)
    pairs = {s.path: (s.out_features, s.in_features) for s in SITES}
    after = {
        path: (torch.randn(out, rank, generator=g), torch.randn(rank, inner, generator=g))
        for path, (out, inner) in pairs.items()
    }
    before = {path: (torch.zeros_like(b), a) for path, (b, a) in after.items()}
    return Change(name, before, after, 1.0, 2.0)


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
