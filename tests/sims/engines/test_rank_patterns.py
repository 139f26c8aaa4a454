"""Two owners of one expert, each with a pattern of ranks of its own, trained for real."""

import copy
from dataclasses import replace

import pytest
import torch
from stages import OWN_FACTORS

from fedmore.client.state.memory import Memory
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.mixture.assemble import load_factors
from fedmore.experts.base.model import load_base
from fedmore.experts.mixture.model import assemble
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.sims.engines import local
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.smoke import smoke
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import without

PATTERNS = {"kitchen-a": "gate=2,up=2,down=8", "kitchen-b": "0-2:4,3-5:2"}
IDS = torch.arange(60).view(3, 20) * 7 % 257


class Whole(Router):
    """The expert at weight 1 for every token."""

    def __init__(self) -> None:
        super().__init__(RouterSpec("uniform", 1, 64))

    def forward(self, x_BTD, slot, memory):
        return torch.tensor([0.0, 1.0]).expand(*x_BTD.shape[:2], -1)


def rank_of(name, path):
    if name == "kitchen-a":
        return 8 if "down" in path else 2
    return 4 if int(path.split(".")[2]) < 3 else 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run's directory, the client's factors and the coordinator's state after two rounds."""
    clients = tuple(
        replace(client, rank=PATTERNS[client.name])
        for client in smoke().clients
        if client.name in PATTERNS
    )
    config = {**smoke().config}
    config["federation"] = {**config["federation"], "clients": 2}
    config["stages"] = [
        {**config["stages"][0], "codec": "fp32", "rank_scaling": "rslora", **OWN_FACTORS}
    ]
    config["router"] = {"kind": "uniform"}
    scenario = replace(smoke(), config=config, clients=clients, evaluation={"kitchen": "kitchen"})
    prepared = prepare(scenario, tmp_path_factory.mktemp("runs") / "run", seed=3)
    local.run(prepared)
    return prepared


def factors_of(prepared, name):
    client = next(each for each in prepared.scenario.clients if each.name == name)
    (node,) = (prepared.folder(client) / "state").glob("node-*")
    return Memory(node).read("kitchen").component


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_is_summed_kept_withdrawn_and_mixed_exactly(run):
    """Against dense float64 FedAvg of the owners' own products, each at its matrix's own scale."""
    with open_federation(run.directory) as federation:
        members = {m.name: (m.rank, m.ranks) for m in federation.registry.members()}
        row = federation.registry.latest("kitchen")
        aggregate = load_factors(federation.store, row)
        digest = federation.registry.rounds()[-1].metrics["state"]
        states = restore(federation.store.get(digest))
    assert members == {
        "kitchen-a": (8, PATTERNS["kitchen-a"]),
        "kitchen-b": (4, PATTERNS["kitchen-b"]),
    }
    state = states["kitchen"]
    assert dump(states) == dump(restore(dump(states)))
    left, _ = without(state, {"kitchen-a"}, 512)
    base = load_base(run.config.base.model, "float32")
    dense = copy.deepcopy(base.model)
    for path in aggregate:
        parts = {}
        for name in PATTERNS:
            b, a = factors_of(run, name)[path]
            rank = rank_of(name, path)
            assert (b.shape[1], a.shape[0]) == (rank, rank)
            scale = 2 * (8 / rank) ** 0.5
            parts[name] = state.components[name].weight * scale * b.double() @ a.double()
        exact = sum(parts.values())
        close(aggregate[path], exact)
        close(left.aggregate[path], parts["kitchen-b"])
        with torch.no_grad():
            dense.get_submodule(path).weight += exact.float()
    mixture = assemble(base.model, {"kitchen": aggregate}, Whole())
    with torch.no_grad():
        found, expected = (m(input_ids=IDS).logits for m in (mixture.model, dense))
        before = base.model(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)


def close(pair, exact):
    b, a = pair
    off = b.double() @ a.double() - exact
    assert float(off.norm()) < 1e-6 * float(exact.norm())
