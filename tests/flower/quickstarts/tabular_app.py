"""In the shape of Flower's quickstart for tables: a NumPyClient, and functions that make both ends.

The text of its own; a logistic regression in NumPy over data drawn on the spot.
"""

import warnings
from pathlib import Path

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from flwr.client import ClientApp, NumPyClient
    from flwr.common import Context, ndarrays_to_parameters
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg


def mean(metrics):
    total = sum(count for count, _ in metrics)
    return {"accuracy": sum(count * each["accuracy"] for count, each in metrics) / total}


class Regression(NumPyClient):
    def __init__(self, part, parts, penalty):
        rng = np.random.default_rng(part)
        self.inputs = rng.normal(size=(96 // parts, 3))
        self.labels = (self.inputs.sum(1) > 0).astype(float)
        self.decay = {"l2": 0.01, "none": 0.0}[penalty]

    def right(self, weights):
        return float(((self.inputs @ weights > 0) == self.labels).mean())

    def fit(self, parameters, config):
        (weights,) = parameters
        for _ in range(10):
            chance = 1 / (1 + np.exp(-self.inputs @ weights))
            slope = self.inputs.T @ (chance - self.labels) / len(self.labels)
            weights = weights - slope - self.decay * weights
        return [weights], len(self.labels), {"accuracy": self.right(weights)}

    def evaluate(self, parameters, config):
        accuracy = self.right(parameters[0])
        return 1 - accuracy, len(self.labels), {"accuracy": accuracy}


def client_fn(context: Context):
    node, run = context.node_config, context.run_config
    part = Regression(node["partition-id"], node["num-partitions"], run["penalty"])
    return part.to_client()


class Kept(FedAvg):
    """Leaves what it has made in a file."""

    out = ""

    def aggregate_fit(self, server_round, results, failures):
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        if parameters is not None:
            Path(self.out).write_bytes(parameters.tensors[0])
        return parameters, metrics


def server_fn(context: Context):
    run = context.run_config
    strategy = Kept(
        min_available_clients=run["min-available-clients"],
        fit_metrics_aggregation_fn=mean,
        evaluate_metrics_aggregation_fn=mean,
        initial_parameters=ndarrays_to_parameters([np.zeros(3)]),
    )
    strategy.out = run["out"]
    return ServerAppComponents(
        strategy=strategy, config=ServerConfig(num_rounds=run["num-server-rounds"])
    )


client_app = ClientApp(client_fn=client_fn)
server_app = ServerApp(server_fn=server_fn)
