"""The whole thing: real processes on loopback, all in one process, and Flower's simulation."""

import json
import sys
import time

import pytest
from running import living_processes

from fedmore.coordinator.folder.federation import open_federation
from fedmore.sims.engines import grpc, local, processes
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.smoke import smoke

MIRRORED = ("stages.0.rounds=3", "stages.0.download_codec=sign1")
"""The shared expert comes whole in round 2 and as a move of the mirror in round 3."""


def digests(directory):
    with open_federation(directory) as federation:
        versions = federation.registry.experts()
        rows = [row for row in federation.registry.rounds() if row.kind == "experts"]
    found = {(v.name, v.stage, v.round): v.digest for v in versions}
    return found | {
        ("state, mirrors too", rows[-1].stage, rows[-1].round): rows[-1].metrics["state"]
    }


def scores(directory):
    found = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))
    return found["bits_per_byte"]


def means(directory):
    """Compared but for rounding: how scores are summed up depends on the process's threads."""
    entries = ((t, k, v) for t, row in scores(directory).items() for k, v in row.items() if v)
    return {f"{text} {of}": value["mean"] for text, of, value in entries}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_engines_give_the_same_result_bit_for_bit(tmp_path):
    """One test, so that parallel workers do not each run them."""
    wired, single, simulated = (tmp_path / name for name in ("grpc", "local", "ray"))
    grpc.run(prepare(smoke(), wired, seed=3, settings=MIRRORED))
    check_clients(wired)
    local.run(prepare(smoke(), single, seed=3, settings=MIRRORED))
    run_ray(simulated, tmp_path / "ray.log")
    assert digests(wired) == digests(single) == digests(simulated)
    assert {name for name, _, _ in digests(wired)} >= {"kitchen", "garden", "xx"}
    assert means(wired) == pytest.approx(means(single), rel=1e-6)
    check_scores(scores(wired))


def run_ray(directory, log):
    """In a process of its own, as people run it, after which nothing of Ray is left."""
    options = ["--engine", "ray", "--seed", "3", "--out", str(directory)]
    options += [part for setting in MIRRORED for part in ("--set", setting)]
    command = [sys.executable, "-m", "fedmore.sims.cli", "sim", "run", "smoke", *options]
    with processes.Processes(processes.quiet_environment()) as running:
        child = running.start("ray", command, log)
        assert child.process.wait(400) == 0, child.tail()
    deadline = time.monotonic() + 30
    while left := [pid for pid, session in living_processes() if session == child.process.pid]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_programs_go_on_to_the_same_result(tmp_path):
    """kill -9 of the coordinator and of a client in the middle of the plan changes nothing."""
    single = tmp_path / "local"
    torn = prepare(smoke(), tmp_path / "torn", seed=4, settings=MIRRORED)
    local.run(prepare(smoke(), single, seed=4, settings=MIRRORED))
    server = grpc.establish(torn)
    with processes.Processes(processes.quiet_environment()) as running:

        def coordinate(log):
            started = running.start("the coordinator", grpc.coordinator_command(torn), log)
            processes.wait_for_port(started, server.host, server.port)
            return started

        def join(client, log):
            return running.start(client.name, grpc.client_command(torn, client), tmp_path / log)

        coordinator = coordinate(tmp_path / "first.log")
        clients = [join(c, f"{c.name}.log") for c in torn.scenario.clients]
        wait_for_a_round(torn.directory, clients)
        for child in (coordinator, clients[0]):
            child.process.kill()
            child.process.wait()
        clients[0] = join(torn.scenario.clients[0], "again.log")
        grpc.watch(coordinate(tmp_path / "second.log"), clients)
        running.wait(30)
    assert "round 2 begins" in (tmp_path / "second.log").read_text(encoding="utf-8")
    assert digests(torn.directory) == digests(single)
    assert means(torn.directory) == pytest.approx(means(single), rel=1e-6)


def wait_for_a_round(directory, clients):
    deadline = time.monotonic() + 240
    with open_federation(directory) as federation:
        while not federation.registry.rounds():
            assert time.monotonic() < deadline
            assert all(client.process.poll() is None for client in clients)
            time.sleep(0.05)
