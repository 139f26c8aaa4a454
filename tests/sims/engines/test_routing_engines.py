"""A router that clients train, by real processes and all in one process: the same, bit for bit."""

import json
from dataclasses import replace

import pytest

from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.store.state_keys import ROUTER
from fedmore.experts.errors import ConfigError
from fedmore.sims.engines import grpc, local
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.smoke import smoke


def scenario():
    """`smoke` with two of its owners, whose plan ends with a routing stage."""
    config = dict(smoke().config)
    experts, language, _ = config["stages"]
    config["federation"] = {**config["federation"], "clients": 2}
    config["stages"] = [
        experts | {"rounds": 1}, language | {"rounds": 1}, language | {"kind": "routing"}
    ]  # fmt: skip
    config["router"] = {"kind": "remix", "top_k": 2, "num_selections": 2, "trained_at": "clients"}
    owners = [client for client in smoke().clients if client.name in ("garden", "foreign")]
    evaluation = {"garden": "garden", "xx": "foreign"}
    return replace(smoke(), config=config, clients=tuple(owners), evaluation=evaluation)


def result(directory):
    with open_federation(directory) as federation:
        registry = federation.registry
        rows = [row for row in registry.rounds() if row.kind == "routing"]
        experts = {(v.name, v.stage, v.round): v.digest for v in registry.experts()}
        return registry.get_state(ROUTER), [row.metrics["state"] for row in rows], experts


def test_a_plan_that_cannot_be_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "run_plan", None)
    wrong = ["router.kind=uniform"]
    prepared = prepare(scenario(), tmp_path / "run", settings=wrong)
    with pytest.raises(ConfigError, match=r"trained_at: uniform is set, not"):
        local.run(prepared)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_engines_agree_on_the_clients_router(tmp_path):
    grpc.run(prepare(scenario(), tmp_path / "grpc", seed=3))
    local.run(prepare(scenario(), tmp_path / "local", seed=3))
    router, states, experts = result(tmp_path / "grpc")
    assert len(router) == 64
    assert len(set(states)) == 2
    assert set(experts) == {("garden", 0, 1), ("xx", 1, 1)}
    assert (router, states, experts) == result(tmp_path / "local")
    for engine in ("grpc", "local"):
        found = json.loads((tmp_path / engine / "evaluation.json").read_text(encoding="utf-8"))
        assert found["mixture"]["router"] == "remix"
