"""The clock of the wall jumps by hours, to and fro: rounds have the same result."""

import datetime as dt
import itertools
import time
from dataclasses import replace

import pytest
import torch

from fedmore.coordinator.rpc import auth
from fedmore.coordinator.run import recorder
from fedmore.coordinator.store import models
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.strategies.events import Left

HOURS = {"forwards": (6,), "backwards": (-6,), "to and fro": (6, -6, 0, 3)}


class Clock:
    """What `datetime` is in a module, some hours off at each look."""

    def __init__(self, hours):
        self._hours = itertools.cycle(hours)

    def now(self, zone=None):
        return dt.datetime.now(zone) + dt.timedelta(hours=next(self._hours))


def result(round_, update):
    """What comes of a round in which both clients say the same."""
    round_.eve.introduce()
    task = round_.eve.task("train")
    connections = round_.federation.server._connections
    swept = connections._swept
    round_.federation.eventually(lambda: connections._swept > swept + 1)
    round_.eve.reply(task.task_id, update())
    assert set(round_.end()["clients"]) == {"alice", "eve"}
    assert round_.federation.of(Left) == [], "nobody was given up"
    [state] = round_.states.values()
    return state.aggregate


@pytest.fixture
def undisturbed(federation, round_of, update, tmp_path):
    """The result in another federation, whose clock does not jump."""
    folder = tmp_path / "other"
    folder.mkdir()
    other = replace(
        federation, directory=folder, registry=Registry.open(folder), store=Store(folder / "blobs"),
        queue=TaskQueue(), events=[], running=[],
    )  # fmt: skip
    other.serve()
    plain = type(round_of)(other).begin()
    try:
        yield result(plain, update)
    finally:
        plain.eve.close()
        other.close()


@pytest.mark.parametrize("jump", HOURS)
def test_a_round_has_the_same_result(undisturbed, round_of, update, monkeypatch, jump):
    real, hours = time.time, itertools.cycle(HOURS[jump])
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * next(hours))
    for module in (models, recorder, auth):
        monkeypatch.setattr(module, "datetime", Clock(HOURS[jump]))
    found = result(round_of, update)
    assert found.keys() == undisturbed.keys()
    for path, factors in found.items():
        for ours, theirs in zip(factors, undisturbed[path], strict=True):
            assert torch.equal(ours, theirs)
