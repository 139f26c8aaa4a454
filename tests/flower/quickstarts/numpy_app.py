"""In the shape of Flower's later quickstart for tables: messages that carry NumPy arrays.

The text of its own; a regression over data drawn on the spot. The server takes part of its clients
for training, and gives its own strategy in a class.
"""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg


def data(context: Context) -> tuple[np.ndarray, np.ndarray]:
    part, parts = context.node_config["partition-id"], context.node_config["num-partitions"]
    inputs = np.random.default_rng(part).normal(size=(96 // parts, 3))
    return inputs, (inputs.sum(1) > 0).astype(float)


def right(weights: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> float:
    return float(((inputs @ weights > 0) == labels).mean())


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    weights, bias = message.content["arrays"].to_numpy_ndarrays()
    inputs, labels = data(context)
    decay = {"l2": 0.01, "none": 0.0}[context.run_config["penalty"]]
    for _ in range(context.run_config["local-epochs"]):
        chance = 1 / (1 + np.exp(-inputs @ weights - bias))
        weights = weights - inputs.T @ (chance - labels) / len(labels) - decay * weights
    metrics = MetricRecord({"num-examples": len(labels), "acc": right(weights, inputs, labels)})
    records = {"arrays": ArrayRecord([weights, bias]), "metrics": metrics}
    return Message(RecordDict(records), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    weights, _ = message.content["arrays"].to_numpy_ndarrays()
    inputs, labels = data(context)
    metrics = MetricRecord({"num-examples": len(labels), "acc": right(weights, inputs, labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class Counted(FedAvg):
    """Counts the replies that it was given."""

    replies = 0

    def aggregate_train(self, server_round, replies):
        found = list(replies)
        self.replies += len(found)
        return super().aggregate_train(server_round, found)


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    run = context.run_config
    strategy = Counted(
        fraction_train=run["fraction-train"],
        fraction_evaluate=run["fraction-evaluate"],
        min_available_nodes=run["min-available-clients"],
    )
    rounds = run["num-server-rounds"]
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord([np.zeros(3), np.zeros(1)]), num_rounds=rounds
    )
    assert strategy.replies == 2 * rounds
    assert set(result.train_metrics_clientapp) <= set(range(1, rounds + 1))
    made = result.arrays.to_numpy_ndarrays()
    Path(run["out"]).write_bytes(b"".join(array.tobytes() for array in made))
