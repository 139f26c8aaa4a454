"""A small Flower app for processes that are disturbed: federated averaging, the same every time.

The client says how far it is after every step, and waits `pause` seconds between them.
"""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedmore.client.training.progress import report

client_app = ClientApp()
server_app = ServerApp()
STEPS = 5


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Halve what comes and add a number of this node's own."""
    shift, pause = float(context.node_config["shift"]), float(context.node_config["pause"])
    for step in range(STEPS):
        report(step + 1, STEPS, 1.0, 1.0, step)
        time.sleep(pause)
    arrays = [array.numpy() * 0.5 + shift for array in message.content["arrays"].values()]
    metrics = MetricRecord({"num-examples": 10})
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(content, reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Average for `rounds` rounds; the digest of every array goes to `out`."""
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=int(context.run_config["nodes"]))
    rounds = int(context.run_config["rounds"])
    result = strategy.start(grid, ArrayRecord(begin()), num_rounds=rounds, timeout=3600)
    text = json.dumps(digests_of(result.arrays))
    out = Path(str(context.run_config["out"]))
    part = out.with_suffix(".writing")  # whoever waits for the file sees all of it or nothing
    part.write_text(text, encoding="utf-8")
    part.replace(out)


def begin() -> list[np.ndarray]:
    """One array that travels inline, and one of 400 kB; halves of them are exact for long."""
    rng = np.random.default_rng(7)
    return [rng.integers(-999, 999, size).astype(np.float64) for size in ((3, 5), (50, 1000))]


def shift_of(node: int) -> float:
    """What the client `node` adds."""
    return 1.5 + 2 * node


def undisturbed(nodes: int, rounds: int) -> list[str]:
    """The digests without a network; with 2 or 4 nodes no sum depends on its order."""
    arrays = begin()
    for _ in range(rounds):
        arrays = [sum(a * 0.5 + shift_of(node) for node in range(nodes)) / nodes for a in arrays]
    return digests_of(ArrayRecord(arrays))


def digests_of(arrays: ArrayRecord) -> list[str]:
    """The SHA-256 of every array."""
    return [hashlib.sha256(array.data).hexdigest() for array in arrays.values()]
