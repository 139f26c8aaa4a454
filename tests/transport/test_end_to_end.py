"""A stock Flower ClientApp and a stock strategy over our wire, on loopback with TLS."""

import random

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

ROUNDS = 2


def make_client(shift: float, examples: int):
    """Adds `shift` to every parameter; its metrics say how many examples it has."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = [a.numpy() + shift for a in message.content["arrays"].values()]
        metrics = MetricRecord({"num-examples": examples, "train_loss": shift})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        total = float(sum(a.numpy().sum() for a in message.content["arrays"].values()))
        metrics = MetricRecord({"num-examples": examples, "total": total})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    context = Context(1, 1, {}, RecordDict(), {})
    return lambda message: app(message, context)


def test_fedavg_over_the_wire_equals_the_average_by_hand(federation):
    rng = np.random.default_rng(0)
    # One array inline, one above 64 KiB that goes as a blob.
    start = [rng.normal(size=(3, 5)), rng.normal(size=(200, 300))]
    clients = {"ada": (1.0, 10), "bob": (-4.0, 30)}
    for name, (shift, examples) in clients.items():
        federation.join(name, make_client(shift, examples))
    random.seed(0)

    result = FedAvg().start(
        grid=federation.grid,
        initial_arrays=ArrayRecord(start),
        num_rounds=ROUNDS,
        timeout=30,
    )

    step = (1.0 * 10 - 4.0 * 30) / 40
    for array, expected in zip(result.arrays.values(), start, strict=True):
        np.testing.assert_allclose(array.numpy(), expected + ROUNDS * step, rtol=1e-12)
    assert result.train_metrics_clientapp[ROUNDS]["train_loss"] == step
    federation.server.finish()
    for running in federation.running:
        running.end()
        assert running.finished is True
        assert running.error is None


def test_an_error_in_the_client_reaches_the_strategy_with_its_cause(federation):
    def handler(message):
        raise ZeroDivisionError("no examples")

    federation.join("ada", handler)
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})})
    grid = federation.grid
    [node] = grid.get_node_ids()

    [reply] = grid.send_and_receive([Message(content, node, "train")], timeout=20)

    assert reply.has_error()
    assert "ZeroDivisionError: no examples" in reply.error.reason
    assert "test_end_to_end.py" in reply.error.reason
