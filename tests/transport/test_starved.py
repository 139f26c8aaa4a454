"""Starved is not dead: a client without time to speak, and a coordinator without time to listen."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fedmore.client.transport import channel
from fedmore.coordinator.rpc import socket_bytes
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.strategies.events import Joined, Left, Received

TIMEOUT_S = 5.0
pytestmark = pytest.mark.skipif(
    not socket_bytes.supported(), reason="bytes are counted on Linux only"
)

STARVED = """
import ctypes, pathlib, sys
from flwr.app import RecordDict
from fedmore.client.identity.enrolment import read_identity
from fedmore.client.session.runner import Session
from fedmore.protos.wire.flower_compat import make_reply

def work(message):
    ctypes.PyDLL(None).sleep(int(sys.argv[2]))  # of a PyDLL a call holds the interpreter's lock
    return make_reply(message, RecordDict())

Session(read_identity(pathlib.Path(sys.argv[1]))).run(work)
"""


@pytest.fixture
def impatient(federation):
    """A coordinator that gives a member up after five seconds of silence."""
    federation.server.stop()
    federation.heartbeat_timeout_s = TIMEOUT_S
    federation.serve()
    return federation


@pytest.mark.slow
def test_a_client_whose_interpreter_is_held_by_its_training_stays(impatient):
    """No thread of Python's runs there for twice as long as a member may be silent."""
    identity = impatient.enrol("ada")
    seconds = int(2 * TIMEOUT_S)
    command = [sys.executable, "-c", STARVED, str(impatient.directory / "ada"), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(command, env=environment) as process:
        try:
            impatient.eventually(impatient.queue.nodes, 30)
            impatient.ask(identity.node_id)
            impatient.eventually(lambda: impatient.of(Received), seconds + 30)
        finally:
            process.kill()
    assert [event.failure for event in impatient.of(Received)] == [""]
    assert [event for event in impatient.of(Left) if "sign of life" in event.reason] == []


def test_a_process_that_is_gone_is_still_noticed(impatient):
    """Stopped, so that its connections stay open: its kernel answers, it does not."""
    impatient.enrol("ada")
    command = [sys.executable, "-c", STARVED, str(impatient.directory / "ada"), "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(command, env=environment) as process:
        try:
            impatient.eventually(impatient.queue.nodes, 30)
            process.send_signal(signal.SIGSTOP)
            impatient.eventually(lambda: impatient.of(Left), TIMEOUT_S + 30)
        finally:
            process.kill()
    assert impatient.of(Left) == [Left("ada", f"no sign of life for {TIMEOUT_S:g} s")]


@pytest.mark.slow
def test_a_coordinator_whose_loop_stalls_loses_nobody(impatient):
    names = ("ada", "bob")
    running = [impatient.join(name, lambda m: make_reply(m, m.content)) for name in names]
    for _ in range(2):
        impatient.server._loop.call_soon_threadsafe(time.sleep, 1.5 * TIMEOUT_S)
        impatient.eventually(lambda: all(r.statuses == ["connected to test"] for r in running))
        task_id = impatient.ask(running[0].identity.node_id)
        impatient.eventually(
            lambda task_id=task_id: task_id in {e.task_id for e in impatient.of(Received)}, 30
        )
    assert impatient.of(Left) == []
    assert {event.name for event in impatient.of(Joined)} == set(names)
    assert [r.statuses for r in running] == [["connected to test"]] * 2, "no stream was lost"


@pytest.mark.slow
def test_pings_that_come_in_bunches_end_no_connection(impatient, monkeypatch):
    """Twenty, ten times as close as the server counts as proper."""
    options = dict(channel.OPTIONS) | {"grpc.keepalive_time_ms": 100}
    monkeypatch.setattr(channel, "OPTIONS", tuple(options.items()))
    impatient.server.stop()
    impatient.heartbeat_s, impatient.heartbeat_timeout_s = 4.0, 10.0
    impatient.serve()
    running = impatient.join("ada", lambda m: make_reply(m, m.content))
    meter = impatient.server._parts.traffic.meter

    def received():
        return sum(up for up, _ in meter.sample().values())

    before = received()
    impatient.eventually(lambda: received() - before > 20 * 17, 30)
    assert running.statuses == ["connected to test"]


def test_the_ends_agree_on_how_often_a_ping_may_come():
    from fedmore.coordinator.rpc.server_options import OPTIONS

    server, client = dict(OPTIONS), dict(channel.OPTIONS)
    least = server["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert client["grpc.keepalive_time_ms"] >= 2 * least
    assert client["grpc.http2.max_pings_without_data"] == 0
    stall_s = server["grpc.http2.max_ping_strikes"] * client["grpc.keepalive_time_ms"] / 1000
    assert stall_s > 600, "so long may the server stand still and take all pings at once"
