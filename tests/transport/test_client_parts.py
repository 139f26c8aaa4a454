"""The small parts of the client: patience, progress, outbox, imports."""

import subprocess
import sys
import threading

import pytest

from fedmore.client.outbox import Outbox
from fedmore.client.patience import Patience, persist
from fedmore.client.progress import report, reporting, throttled
from fedmore.experts.errors import DataError, TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.strategies.events import Report

LOST = TransportError("lost")


def make_patience(limit_s=100.0, jitter=1.0):
    now = [0.0]
    return Patience(limit_s, clock=lambda: now[0], jitter=lambda: jitter), now


def test_delays_double_up_to_a_limit():
    patience, _ = make_patience()
    delays = [patience.next_delay(LOST) for _ in range(8)]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    patience.reset()
    assert patience.next_delay(LOST) == 0.2


def test_delays_are_jittered():
    assert make_patience(jitter=0.0)[0].next_delay(LOST) == 0.1


def test_patience_ends_and_says_so():
    patience, now = make_patience(limit_s=5)
    now[0] = 4.9
    assert patience.next_delay(LOST) == pytest.approx(0.1)
    now[0] = 5.0
    with pytest.raises(TransportError, match="lost; gave up after 5 s"):
        patience.next_delay(LOST)


def test_persist_tries_again_only_what_may_work():
    tries = []

    def action():
        tries.append(1)
        raise LOST if len(tries) < 3 else DataError("no")

    with pytest.raises(DataError):
        persist(action, 10, threading.Event())
    assert len(tries) == 3


def test_persist_stops_when_told():
    stopped = threading.Event()
    stopped.set()

    def action():
        raise LOST

    with pytest.raises(TransportError, match="lost"):
        persist(action, 10, stopped)


def test_reports_go_to_the_sink_and_nowhere_without_one():
    report(1, 2, 0.5, 10.0, 64)
    heard = []
    with reporting(heard.append):
        report(1, 2, 0.5, 10.0, 64)
    report(2, 2, 0.5, 10.0, 64)
    assert heard == [Report(1, 2, 0.5, 10.0, 64)]


def test_throttling_keeps_the_first_the_last_and_two_a_second():
    now, heard = [0.0], []
    sink = throttled(lambda r: heard.append(r.step), clock=lambda: now[0])
    for step in range(1, 101):
        sink(Report(step, 100, 0, 0, 0))
        now[0] += 0.1
    assert heard[0] == 1
    assert heard[-1] == 100
    assert len(heard) <= 22


def test_the_outbox_fills_silence_with_heartbeats():
    outbox = Outbox(pb.Hello(session="s"), heartbeat_s=0.01)
    assert next(outbox).hello.session == "s"
    assert next(outbox).WhichOneof("event") == "heartbeat"
    outbox.put(pb.ClientEvent(leave=pb.Leave()))
    outbox.close()
    assert [e.WhichOneof("event") for e in outbox] == ["leave"]


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("fedmore.coordinator.rpc.server", ("torch", "transformers", "fedmore.client")),
        ("fedmore.client.session", ("torch", "transformers", "fedmore.coordinator")),
    ],
)
def test_neither_end_imports_torch_or_the_other(module, others):
    code = f"import sys, {module}; sys.exit(' '.join(m for m in {others} if m in sys.modules) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
