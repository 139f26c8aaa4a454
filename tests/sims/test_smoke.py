"""The whole thing, both ways: real processes on loopback, and all in one process."""

import json

import pytest

from fedmore.coordinator.federation import open_federation
from fedmore.sims.engines import grpc, local
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.smoke import smoke

pytestmark = pytest.mark.slow


def digests(directory):
    with open_federation(directory) as federation:
        versions = federation.registry.experts()
    return {(v.name, v.stage, v.round): v.digest for v in versions}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    for name, engine in (("grpc", grpc), ("local", local)):
        engine.run(prepare(smoke(), folder / name, seed=3))
    return folder


def test_both_engines_give_the_same_aggregates_bit_for_bit(runs):
    over_the_wire = digests(runs / "grpc")
    assert over_the_wire == digests(runs / "local")
    assert {name for name, _, _ in over_the_wire} >= {"kitchen", "garden", "xx"}


@pytest.mark.parametrize("engine", ["grpc", "local"])
def test_a_run_is_evaluated_on_every_text(runs, engine):
    found = json.loads((runs / engine / "evaluation.json").read_text(encoding="utf-8"))
    scores = found["bits_per_byte"]
    assert set(scores) == {"kitchen", "garden", "xx", "sums", "plain"}
    assert scores["sums"]["own_expert"] is None
    for trained in ("kitchen", "garden", "xx"):
        assert scores[trained]["own_expert"]["mean"] < scores[trained]["base"]["mean"]


def test_clients_leave_cleanly_and_their_text_stays_with_them(runs):
    for client in smoke().clients:
        folder = runs / "grpc" / "clients" / client.name
        assert "finished" in (folder / "client.log").read_text(encoding="utf-8")
    assert not list((runs / "grpc" / "blobs").rglob("*.jsonl"))
