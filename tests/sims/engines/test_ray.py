"""Engine `ray` without Ray; `test_smoke.py` runs it."""

import os
import sys
import threading

import pytest
from flwr.app import Context, Message, RecordDict

from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import ConfigError, RoundError
from fedmore.protos.wire.flower_compat import make_reply, make_task
from fedmore.sims.engines.ray import client_app, environment, import_ray, root
from fedmore.sims.engines.stoppable import Stoppable


def test_a_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedmore\[ray\]'"):
        import_ray()


@pytest.mark.parametrize("message_type", ["query.hello", "train", "train.embed"])
def test_a_partition_is_the_scenarios_client(monkeypatch, message_type):
    def handle(message, context):
        seen.append((context.node_id, context.node_config))
        return make_reply(message, RecordDict())

    seen = []
    monkeypatch.setattr("fedmore.client.client_app.handle", handle)
    app = client_app([{"name": "ada"}, {"name": "bob"}])
    task = make_task(RecordDict(), task_id="t", node_id=9, message_type=message_type)
    app(task, Context(1, 9, {"partition-id": 1, "num-partitions": 2}, RecordDict(), {}))
    assert seen == [(9, {"name": "bob"})]


def test_a_grid_ends_with_its_run():
    queue, stopped = TaskQueue(), threading.Event()
    queue.join(5)
    grid = Stoppable(TaskGrid(queue), stopped)
    assert list(grid.get_node_ids()) == [5]
    message = Message(RecordDict(), 5, "train")
    assert grid.send_and_receive([message], timeout=0.0) == []
    waiting = threading.Timer(0.05, stopped.set)
    waiting.start()
    with pytest.raises(RoundError, match="the run was stopped"):
        grid.send_and_receive([Message(RecordDict(), 5, "train")], timeout=60)
    waiting.join()


def test_the_environment_comes_back(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.delenv("RAY_SOMETHING", raising=False)
    with environment({"RAY_SOMETHING": "1"}):
        assert os.environ["RAY_SOMETHING"] == "1"
        os.environ["PYTHONPATH"] = "flower's"
    assert os.environ["PYTHONPATH"] == "mine"
    assert "RAY_SOMETHING" not in os.environ


def test_the_first_error_of_a_chain_is_the_one_to_tell():
    first, last = ValueError("first"), RuntimeError("last")
    last.__cause__ = first
    assert root(last) is first
