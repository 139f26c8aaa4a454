"""Experts of one small matrix, whose owners' contributions are drawn: no model trains here."""

import torch

from fedmore.coordinator.config.schema import load_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.folder.pairing import pair
from fedmore.coordinator.mixture.versions import STATE, keep_version
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import TargetModule
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.snapshot import dump
from fedmore.strategies.expert_stage.state import fresh
from fedmore.strategies.expert_stage.step import advance

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


def write_round(federation, states, number):
    registry, store, entries = federation.registry, federation.store, {}
    for name, state in states.items():
        entry = {"owners": sorted(state.components)}
        entries[name] = {
            **entry,
            "digest": keep_version(federation, state, (0, number), entry),
        }
    metrics = {"experts": entries, STATE: store.put(dump(states))}
    registry.add_round(stage=0, kind="experts", round=number, metrics=metrics)


TOML = """[federation]
name = "test"
[base]
model = "somewhere"
[[stages]]
kind = "experts"
rounds = 9
"""


def trained_folder(directory, rounds=2, more=""):
    """A federation's folder: legal is a's and b's, medical is m's, with a version of each round."""
    directory.mkdir(exist_ok=True)
    (directory / "federation.toml").write_text(TOML + more)
    with Registry.open(directory) as registry:
        store = Store(directory / "blobs")
        pair(registry, store)
        for name, target in (("a", "legal"), ("b", "legal"), ("m", "medical")):
            registry.enrol(registry.invite(name), name, "expert", target, 2)
        federation = Federation(directory, load_config(directory), registry, store)
        states = {name: fresh(name, "expert", SITES) for name in ("legal", "medical")}
        for number in range(1, rounds + 1):
            another_round(federation, states, number)
    return directory


def another_round(federation, states, number):
    for name, owners in (("legal", "ab"), ("medical", "m")):
        items = [contribution(owner, 10 * number + ord(owner)) for owner in owners]
        states[name], _ = advance(states[name], items, 512)
    write_round(federation, states, number)
