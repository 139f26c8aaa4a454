"""Whatever happens on the way, the result is the undisturbed one and each contribution counts once.

Every run draws other schedules. A failure says its seed; `FEDMORE_FAULT_SEED=…` draws them
again, `FEDMORE_FAULT_EXAMPLES=200` more of them.
"""

import itertools
import os
import random
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from hypothesis import HealthCheck, Phase, event, given, note, seed, settings
from hypothesis import strategies as st

from fedmore.client.session.runner import Session
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos.wire.flower_compat import stamp
from fedmore.strategies.events import Received, Refused

EXAMPLES = int(os.environ.get("FEDMORE_FAULT_EXAMPLES", "8"))
SEED = int(os.environ.get("FEDMORE_FAULT_SEED", "0")) or random.SystemRandom().getrandbits(32)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 30 * EXAMPLES)]
ROUNDS, WITHIN_S = 2, 30.0
SHIFTS = {"ada": (1.5, 10), "bob": (-4.25, 30)}
NUMBERS = itertools.count()
PIECES = ("Upload: ", "Download: ")
"""Calls that are refused when they are cut or their pieces are wrong, and resumed."""
faulty = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def make_app(shift, examples):
    """Halves what it gets and adds `shift`; stock Flower."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = [array.numpy() * 0.5 + shift for array in message.content["arrays"].values()]
        metrics = MetricRecord({"num-examples": examples})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    context = Context(1, 1, {}, RecordDict(), {})
    return lambda message: app(message, context)


class Undisturbed(TaskGrid):
    """The apps called in place of a network."""

    def __init__(self, apps):
        super().__init__(TaskQueue())
        self._apps = apps

    def get_node_ids(self):
        return sorted(self._apps)

    def send_and_receive(self, messages, *, timeout=None):
        return [self._apps[m.metadata.dst_node_id](stamp(m, "task")) for m in messages]


def average(grid, seed):
    """Federated averaging from arrays that no other example has: one inline, one of 400 kB."""
    rng = np.random.default_rng(seed)
    start = ArrayRecord([rng.normal(size=(3, 5)), rng.normal(size=(50, 1000))])
    random.seed(0)
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid, start, num_rounds=ROUNDS, timeout=WITHIN_S)
    return [array.data for array in result.arrays.values()]


class Running(threading.Thread):
    """A member's session, until it is stopped."""

    def __init__(self, identity, app):
        super().__init__(daemon=True)
        self.session = Session(identity, patience_s=WITHIN_S)
        self.app, self.error = app, None
        self.start()

    def run(self):
        try:
            self.session.run(self.app)
        except Exception as error:
            self.error = error


def check_exchange(hub, port):
    """One exchange with the members connected through `port`."""
    number, before, began = next(NUMBERS), len(hub.events), time.monotonic()
    apps = {hub.members[name].node_id: make_app(*SHIFTS[name]) for name in SHIFTS}
    running = [
        Running(replace(member, address=f"127.0.0.1:{port}"), apps[member.node_id])
        for member in hub.members.values()
    ]
    hub.eventually(lambda: len(hub.queue.nodes()) == 2, WITHIN_S)
    found = average(hub.grid, number)
    hub.eventually(lambda: len(received(hub, before)) >= 2 * ROUNDS)
    for each in running:
        each.session.stop()
        each.join(10)
        assert not each.is_alive(), "a session hangs"
        assert each.error is None, each.error
    assert found == average(Undisturbed(apps), number)
    assert time.monotonic() - began < WITHIN_S
    counts = Counter(event.task_id for event in received(hub, before))
    assert list(counts.values()) == [1] * 2 * ROUNDS
    assert not any(event.failure for event in received(hub, before))
    assert not [why for why in refused(hub, before) if not why.startswith(PIECES)]
    present = hub.server._connections._present.values()
    hub.eventually(lambda: not any(each.attached for each in list(present)))
    hub.journal.clear()


def refused(hub, before):
    return [event.reason for event in hub.events[before:] if isinstance(event, Refused)]


def received(hub, before):
    return [event for event in hub.events[before:] if isinstance(event, Received)]


def tell(schedule):
    note(f"FEDMORE_FAULT_SEED={SEED}, happened: {schedule.happened}")
    event(f"faults: {len(schedule.happened)}")


@seed(SEED)
@faulty
@given(data=st.data())
def test_connections_that_fail_change_nothing(hub, faults, data):
    schedule = faults.Schedule(data.draw(faults.connection()))
    proxy = faults.Proxy(hub.server.port, schedule)
    try:
        check_exchange(hub, proxy.port)
    finally:
        proxy.close()
        tell(schedule)


@seed(SEED)
@faulty
@given(data=st.data())
def test_messages_that_are_lost_late_doubled_or_out_of_order_change_nothing(hub, faults, data):
    schedule = faults.Schedule(data.draw(faults.message()))
    with pytest.MonkeyPatch.context() as patch:
        faults.Streams(patch, schedule)
        try:
            check_exchange(hub, hub.server.port)
        finally:
            tell(schedule)


@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "corrupt"])
def test_two_faults_in_one_reply_change_nothing(hub, faults, kind):
    """Most of all a piece that is lost: the upload ends too early, and then holds the wrong."""
    pair = [faults.Fault(kind, "up", 4), faults.Fault("drop", "up", 18)]
    check_blobs(hub, faults, faults.Schedule(pair))


@seed(SEED)
@faulty
@given(data=st.data())
def test_pieces_of_blobs_that_are_lost_doubled_or_corrupt_change_nothing(hub, faults, data):
    schedule = faults.Schedule(data.draw(faults.blob()))
    try:
        check_blobs(hub, faults, schedule)
    finally:
        tell(schedule)


def check_blobs(hub, faults, schedule):
    with pytest.MonkeyPatch.context() as patch:
        faults.Blobs(patch, schedule)
        check_exchange(hub, hub.server.port)
