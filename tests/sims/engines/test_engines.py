"""Both engines around stand-ins for the two apps: what they set up, and how they end."""

import json
import sys

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.monitor.mlflow_tracker import NullTracker
from fedmore.experts.errors import RoundError
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.sims.engines import grpc, local
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.smoke import smoke

SERVE = """
import socket
with socket.create_server(("127.0.0.1", {port})) as server:
    for _ in range({connections}):
        server.accept()[0].close()
"""
CALL = "import socket; socket.create_connection(('127.0.0.1', {port})).close(); print('done')"


@pytest.fixture
def prepared(tmp_path):
    """`smoke` with its tiny base, which nobody trains here."""
    return prepare(smoke(), tmp_path / "run", seed=5)


@pytest.fixture
def programs(monkeypatch):
    """Replace the programs by scripts that get the port that was chosen."""

    def use(coordinator, client):
        def port(prepared):
            folder = prepared.folder(prepared.scenario.clients[0])
            return json.loads((folder / "invite.json").read_text())["address"].rsplit(":")[-1]

        def command(code):
            return lambda p, *_: [sys.executable, "-c", code.format(port=port(p), connections=5)]

        monkeypatch.setattr(grpc, "coordinator_command", command(coordinator))
        monkeypatch.setattr(grpc, "client_command", command(client))

    return use


def test_grpc_writes_an_invite_for_everyone_and_runs_all_to_their_end(prepared, programs):
    programs(SERVE, CALL)
    grpc.run(prepared)
    for client in prepared.scenario.clients:
        folder = prepared.folder(client)
        invite = json.loads((folder / "invite.json").read_text(encoding="utf-8"))
        assert invite["name"] == client.name
        assert (folder / "client.log").read_text(encoding="utf-8") == "done\n"
    with open_federation(prepared.directory) as federation:
        assert federation.config.federation.seed == 5
        assert federation.config.server.port > 0


def test_grpc_fails_with_the_log_of_a_client_that_died(prepared, programs):
    programs(SERVE, "raise SystemExit('no text in it')")
    with pytest.raises(RoundError, match=r"(?s)client kitchen-a ended with exit code 1.*no text"):
        grpc.run(prepared)


def test_the_programs_are_called_as_people_call_them(prepared):
    expert, adapter = (prepared.scenario.clients[i] for i in (0, 3))
    joined = grpc.client_command(prepared, expert)[3:]
    assert joined[0] == "join"
    assert joined[-4:] == ["--domain", "kitchen", "--rank", "4"]
    assert grpc.client_command(prepared, adapter)[-4:] == ["--language", "xx", "--rank", "8"]
    assert grpc.coordinator_command(prepared)[3:] == ["start", str(prepared.directory)]


def test_local_enrols_everyone_runs_the_plan_and_counts(prepared, monkeypatch):
    seen = {}

    def run_plan(*, grid, federation, **_):
        content = RecordDict({"plan": ConfigRecord({"kind": "experts", "round": 0})})
        messages = [Message(content, n, "train") for n in grid.get_node_ids()]
        for reply in grid.send_and_receive(messages, timeout=30):
            name = federation.registry.member(reply.metadata.src_node_id).name
            seen[name] = dict(reply.content["config"])
        seen["directory"] = federation.directory

    def handle(message, context):
        return make_reply(message, RecordDict({"config": ConfigRecord(context.node_config)}))

    monkeypatch.setattr(local, "import_plan", lambda: run_plan)
    monkeypatch.setattr(local, "make_handler", lambda _: handle)
    monkeypatch.setattr(local, "tracker_of", lambda _: NullTracker())
    local.run(prepared)
    assert seen["directory"] == prepared.directory
    assert (seen["garden"]["rank"], seen["garden"]["target"]) == (32, "garden")
    assert seen["foreign"]["kind"] == "adapter"
    with open_federation(prepared.directory) as federation:
        members = federation.registry.members()
        assert [m.name for m in members] == ["foreign", "garden", "kitchen-a", "kitchen-b"]
        assert all(m.bytes_up > 0 and m.bytes_down > 0 for m in members)
        assert federation.registry.get_state("phase") == "finished"


def test_local_leaves_a_failed_plan_marked(prepared, monkeypatch):
    def fail(**_):
        raise RoundError("nobody answered")

    monkeypatch.setattr(local, "import_plan", lambda: fail)
    monkeypatch.setattr(local, "make_handler", lambda _: None)
    monkeypatch.setattr(local, "tracker_of", lambda _: NullTracker())
    with pytest.raises(RoundError, match="nobody answered"):
        local.run(prepared)
    with open_federation(prepared.directory) as federation:
        assert federation.registry.get_state("phase") == "failed"
