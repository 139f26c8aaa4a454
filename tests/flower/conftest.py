"""The stock app under our engines; what it is compared with is `direct.py`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos.wire.flower_compat import RUN
from fedmore.sims.engines.workers import Node, Workers

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # `stock` is a module of somebody who does not know us


@contextmanager
def local_grid(app: ClientApp, nodes: int) -> Iterator[Grid]:
    """Engine `local` around the app; the node ids are none of the others'."""
    ids = [7 * (nodes - i) for i in range(nodes)]
    contexts = [
        Context(RUN, node_id, {"partition-id": i}, RecordDict(), {})
        for i, node_id in enumerate(ids)
    ]
    clients = {c.node_id: Node(f"client-{c.node_id}", c) for c in contexts}
    queue = TaskQueue()
    with Workers(queue, clients, app, lambda _: None, threads=2):
        yield TaskGrid(queue)


@pytest.fixture
def local():
    """`local(app, nodes)` is a context manager that gives the engine's grid."""
    return local_grid
