import os
import signal
import sys

import pytest

from fedmore.experts.errors import RoundError, TransportError
from fedmore.sims.engines.grpc import watch
from fedmore.sims.engines.processes import (
    Processes,
    ended_by_signals,
    free_port,
    quiet_environment,
    wait_for_port,
)

FOR_EVER = "import threading; threading.Event().wait()"
STUBBORN = (
    "import signal, sys, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('ready', flush=True); threading.Event().wait()"
)


@pytest.fixture
def processes():
    with Processes(dict(os.environ), grace_s=5.0) as running:
        yield running


def python(code):
    return [sys.executable, "-c", code]


def test_leaving_ends_every_child(tmp_path):
    with Processes(dict(os.environ)) as running:
        children = [running.start(f"c{i}", python(FOR_EVER), tmp_path / f"{i}") for i in range(2)]
    assert [c.process.returncode for c in children] == [-signal.SIGTERM, -signal.SIGTERM]


def test_a_child_that_does_not_listen_is_killed(tmp_path):
    with Processes(dict(os.environ), grace_s=0.2) as running:
        child = running.start("stubborn", python(STUBBORN), tmp_path / "log")
        while "ready" not in child.tail():
            assert child.process.poll() is None
    assert child.process.returncode == -signal.SIGKILL


def test_a_client_that_dies_early_shows_the_end_of_its_log(processes, tmp_path):
    coordinator = processes.start("the coordinator", python(FOR_EVER), tmp_path / "coordinator")
    dying = "print('working'); raise SystemExit('out of luck')"
    client = processes.start("client a", python(dying), tmp_path / "a.log")
    with pytest.raises(RoundError, match=r"(?s)client a ended with exit code 1.*out of luck"):
        watch(coordinator, [client])


def test_a_coordinator_that_fails_ends_the_run(processes, tmp_path):
    coordinator = processes.start("the coordinator", python("raise SystemExit(13)"))
    client = processes.start("client a", python(FOR_EVER), tmp_path / "a.log")
    with pytest.raises(RoundError, match="the coordinator ended with exit code 13"):
        watch(coordinator, [client])


def test_a_coordinator_that_ends_well_ends_the_watch(processes, tmp_path):
    watch(processes.start("the coordinator", python("pass"), tmp_path / "log"), [])


def test_waiting_for_a_port_ends_with_its_process(processes, tmp_path):
    child = processes.start("the coordinator", python("raise SystemExit(3)"), tmp_path / "log")
    with pytest.raises(TransportError, match="ended with exit code 3 on 127"):
        wait_for_port(child, "127.0.0.1", free_port("127.0.0.1"))


def test_waiting_for_a_port_returns_when_it_listens(processes, tmp_path):
    port = free_port("127.0.0.1")
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); s.accept(); s.accept()"
    wait_for_port(processes.start("server", python(code), tmp_path / "log"), "127.0.0.1", port)


def test_a_stop_signal_unwinds_and_the_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_children_are_offline_and_keep_their_python():
    environment = quiet_environment()
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
