"""A client's life: joining, losing the connection, being refused, leaving."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedmore.client.identity.enrolment import describe, read_identity
from fedmore.client.session.runner import Session
from fedmore.client.training.progress import report
from fedmore.experts.errors import (
    BaseError,
    NameTakenError,
    TransportError,
)
from fedmore.protos.wire.flower_compat import make_reply
from fedmore.strategies.events import Joined, Left, Progress, Received, Sent


class Gate:
    """A handler that waits to be let through and counts how often it ran."""

    def __init__(self):
        self.entered = threading.Event()
        self.open = threading.Event()
        self.left = threading.Event()
        self.calls = 0

    def __call__(self, message):
        self.calls += 1
        self.entered.set()
        assert self.open.wait(20)
        self.left.set()
        return make_reply(message, RecordDict({"c": ConfigRecord({"calls": self.calls})}))


class Proxy:
    """Forwards TCP to the server; `cut` breaks the connections, `closed` refuses new ones."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.closed = False
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.closed:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(a, b), daemon=True).start()

    def _forward(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self._end(source, sink)

    def _end(self, *connections):
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def cut(self):
        self._end(*self._open)

    def close(self):
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def proxy(federation):
    made = Proxy(federation.server.port)
    yield made
    made.close()


def ask(federation, timeout=20):
    """Send one task to the one node, in the background."""
    grid = federation.grid
    [node] = grid.get_node_ids()
    message = Message(
        RecordDict({"config": ConfigRecord({"stage": "experts", "round": 2})}), node, "train"
    )
    replies = []
    thread = threading.Thread(
        target=lambda: replies.extend(grid.send_and_receive([message], timeout=timeout)),
        daemon=True,
    )
    thread.start()

    def result():
        thread.join(timeout + 5)
        assert len(replies) == 1
        return replies[0]

    return result


def through(proxy, identity):
    return replace(identity, address=f"127.0.0.1:{proxy.port}")


def test_reconnects_and_the_task_in_hand_is_done_once(federation, proxy):
    gate = Gate()
    running = federation.start(through(proxy, federation.enrol("ada")), gate)
    result = ask(federation)
    assert gate.entered.wait(10)
    proxy.cut()
    federation.eventually(
        lambda: any(s.startswith("connected to test again after") for s in running.statuses)
    )
    gate.open.set()
    assert result().content["c"]["calls"] == 1
    assert gate.calls == 1
    assert len(federation.of(Joined)) == 1
    assert federation.of(Left) == []


def test_what_was_finished_without_a_connection_is_sent_after_it_is_back(federation, proxy):
    gate = Gate()
    running = federation.start(through(proxy, federation.enrol("ada")), gate)
    result = ask(federation)
    assert gate.entered.wait(10)
    proxy.closed = True
    proxy.cut()
    federation.eventually(lambda: any("trying again" in status for status in running.statuses))
    gate.open.set()
    assert gate.left.wait(10)
    proxy.closed = False
    assert result().has_content()
    assert gate.calls == 1


def test_a_server_started_again_on_the_same_port_gets_the_reply(federation):
    gate = Gate()
    federation.join("ada", gate)
    result = ask(federation)
    assert gate.entered.wait(10)
    port = federation.server.port
    federation.server.stop()
    federation.serve(port)
    gate.open.set()
    assert result().has_content()
    assert gate.calls == 1


def test_a_client_that_stays_away_is_given_up_and_fails_its_task(federation, proxy):
    federation.server.stop()
    federation.heartbeat_timeout_s = 5.0
    federation.serve(federation.server.port)
    gate = Gate()
    federation.start(through(proxy, federation.enrol("ada")), gate)
    result = ask(federation)
    assert gate.entered.wait(10)
    proxy.closed = True
    proxy.cut()
    reply = result()
    assert reply.has_error()
    assert "no sign of life for 5 s" in reply.error.reason
    assert federation.grid.get_node_ids() == []
    federation.eventually(lambda: federation.of(Left))
    gate.open.set()


def test_patience_has_an_end(federation):
    running = federation.join("ada", Gate(), patience_s=0.5)
    federation.server.stop()
    running.end()
    assert isinstance(running.error, TransportError)
    assert "gave up after 0.5 s" in str(running.error)


def test_a_task_that_is_withdrawn_stops_at_the_next_report(federation):
    stopped = threading.Event()

    def handler(message):
        try:
            for step in range(100_000):
                report(step, 100_000, 1.0, 10.0, step)
                stopped.wait(0.001)
        finally:
            stopped.set()

    federation.join("ada", handler)
    assert "no reply within" in ask(federation, timeout=0.5)().error.reason
    assert stopped.wait(10)


def test_progress_is_told_with_stage_and_round_and_is_throttled(federation):
    def handler(message):
        for step in range(1, 101):
            report(step, 100, loss=2.0, tokens_per_s=50.0, tokens=step * 8)
        return make_reply(message, RecordDict())

    federation.join("ada", handler)
    assert ask(federation)().has_content()
    federation.eventually(lambda: federation.of(Received))
    told = federation.of(Progress)
    assert told[-1] == Progress("ada", "experts", 2, 100, 100, 2.0, 50.0, 800)
    assert len(told) < 10
    [sent] = federation.of(Sent)
    [received] = federation.of(Received)
    assert sent.task_id == received.task_id
    assert 0 < sent.payload_bytes < 200
    assert received.failure == ""


def test_leaving_is_told_at_once(federation):
    running = federation.join("ada", Gate())
    running.session.stop("lunch")
    running.end()
    assert running.finished is False
    assert federation.eventually(lambda: federation.of(Left)) == [Left("ada", "lunch")]
    assert federation.grid.get_node_ids() == []


def test_a_task_left_behind_ends_quietly(federation):
    gate = Gate()
    big = ArrayRecord({"w": Array("u1", (10**6,), "raw", bytes(10**6))})

    def handler(message):
        gate(message)
        return make_reply(message, RecordDict({"arrays": big}))

    running = federation.join("ada", handler)
    result = ask(federation)
    assert gate.entered.wait(10)
    workers = [t for t in threading.enumerate() if t.name == "worker"]
    running.session.stop("no time")
    running.end()
    assert "ada left: no time" in result().error.reason
    gate.open.set()
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def test_ctrl_c_closes_the_stream_promptly(federation):
    federation.enrol("ada")
    code = (
        "import sys, pathlib, time\n"
        "from fedmore.client.identity.enrolment import read_identity\n"
        "from fedmore.client.session.runner import Session\n"
        "identity = read_identity(pathlib.Path(sys.argv[1]))\n"
        "Session(identity).run(lambda message: time.sleep(60))\n"
    )
    command = [sys.executable, "-c", code, str(federation.directory / "ada")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        federation.eventually(federation.queue.nodes)
        ask(federation)
        federation.eventually(lambda: federation.of(Sent))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
        assert b"KeyboardInterrupt" in stderr
        assert federation.eventually(lambda: federation.of(Left)) == [Left("ada", "interrupted")]
    finally:
        process.kill()
        process.wait()


def test_a_second_process_with_the_same_key_takes_over_at_once(federation):
    """As after a crash that the coordinator has not noticed: no waiting, and no two of them."""
    first = federation.join("ada", Gate())
    second = federation.begin(read_identity(federation.directory / "ada"), Gate())
    first.end()
    assert isinstance(first.error, NameTakenError)
    assert "another process has connected with this client's key" in str(first.error)
    federation.eventually(lambda: second.statuses == ["connected to test"])
    assert len(federation.queue.nodes()) == 1
    assert federation.of(Left) == []
    with pytest.raises(NameTakenError):
        federation.invite("ada")


def test_another_base_is_refused_when_connecting(federation):
    with pytest.raises(BaseError, match="same weights"):
        Session(federation.enrol("ada"), fingerprint="0" * 64).run(Gate())


def test_those_who_come_after_the_end_are_sent_home(federation):
    identity = federation.enrol("ada")
    federation.server.finish()
    assert Session(identity).run(Gate()) is True


def test_a_coordinator_that_is_not_there(federation):
    invite = replace(federation.invite("ada"), address="127.0.0.1:1")
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1 cannot be reached"):
        describe(invite)
