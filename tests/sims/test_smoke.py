"""The whole thing, both ways: real processes on loopback, and all in one process."""

import json

import pytest

from fedmore.coordinator.federation import open_federation
from fedmore.sims.engines import grpc, local
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.smoke import smoke


def digests(directory):
    with open_federation(directory) as federation:
        versions = federation.registry.experts()
    return {(v.name, v.stage, v.round): v.digest for v in versions}


def scores(directory):
    found = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))
    return found["bits_per_byte"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_engines_give_the_same_result_bit_for_bit(tmp_path):
    """One test, so that parallel workers do not each run both."""
    wired, single = tmp_path / "grpc", tmp_path / "local"
    grpc.run(prepare(smoke(), wired, seed=3))
    check_clients(wired)
    local.run(prepare(smoke(), single, seed=3))
    assert digests(wired) == digests(single)
    assert {name for name, _, _ in digests(wired)} == {"kitchen", "garden", "xx"}
    assert scores(wired) == scores(single)
    check_scores(scores(wired))


def check_clients(directory):
    """They left as told, and their text stayed with them."""
    for client in smoke().clients:
        log = (directory / "clients" / client.name / "client.log").read_text(encoding="utf-8")
        assert "finished" in log
    private = (directory / "clients" / "garden" / "data" / "docs.jsonl").read_bytes()
    line = json.loads(private.splitlines()[0])["text"].encode()
    blobs = [path for path in (directory / "blobs").rglob("*") if path.is_file()]
    assert blobs
    assert not any(line in path.read_bytes() for path in blobs)


def check_scores(found):
    assert set(found) == {"kitchen", "garden", "xx", "sums", "plain"}
    assert found["sums"]["own_expert"] is None
    for trained in ("kitchen", "garden", "xx"):
        assert found[trained]["own_expert"]["mean"] < found[trained]["base"]["mean"]
