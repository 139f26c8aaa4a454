"""Somebody else's Flower app: NumPy, Flower's own strategies, nothing of ours.

Every reply is exact under any order of the nodes: two of the four have the weights of a mean (the
others count 0), and Krum and the trimmed mean pick. So engines can be compared bit for bit.
"""

import json
import random
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    Result,
    Strategy,
)

NODES = 4
ROUNDS = 2
SHAPES = {"bias": (7,), "kernel": (120, 90), "scalar": ()}
"""The kernel takes 86 kB: it travels as a blob in our engines."""

ALL = {"min_train_nodes": NODES, "min_evaluate_nodes": NODES, "min_available_nodes": NODES}
MEAN, EQUAL, UNLIKE = [1, 3, 0, 0], [1, 1, 1, 1], [1, 3, 0, 4]


def private(strategy: Strategy) -> Strategy:
    return DifferentialPrivacyServerSideFixedClipping(strategy, 0.5, 2.0, NODES)


CASES = {
    "FedAvg": (lambda: FedAvg(**ALL), {"weights": MEAN}),
    "FedAdam": (lambda: FedAdam(**ALL), {"weights": MEAN}),
    "FedYogi": (lambda: FedYogi(**ALL), {"weights": MEAN}),
    "FedTrimmedAvg": (lambda: FedTrimmedAvg(**ALL, beta=0.25), {"weights": MEAN}),
    "Krum": (lambda: Krum(**ALL), {"weights": EQUAL}),
    "DifferentialPrivacy": (lambda: private(FedAvg(**ALL)), {"weights": MEAN}),
    "a node that fails": (lambda: FedAvg(**ALL), {"weights": UNLIKE, "fails": 3}),
}
"""A strategy, and what its clients are told."""

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One step towards the node's own target."""
    config, node = message.content["config"], int(context.node_config["partition-id"])
    if config.get("fails") == node:
        raise ZeroDivisionError(f"node {node} has no examples")
    note(context, f"round {config['server-round']}")
    rng = np.random.default_rng(100 * int(config["server-round"]) + node)
    arrays = {
        name: Array(np.asarray(old + 0.3 * (rng.normal(size=old.shape) - old)))
        for name, old in ((n, a.numpy()) for n, a in message.content["arrays"].items())
    }
    metrics = MetricRecord(
        {"num-examples": config["weights"][node], "loss": 1 / (node + 3), "two": [0.1, float(node)]}
    )
    past = context.state.setdefault("past", ConfigRecord({"tasks": 0}))
    past["tasks"] = 1 if config["server-round"] == 1 else past["tasks"] + 1
    content = {"arrays": ArrayRecord(arrays), "metrics": metrics, "past": past}
    return Message(RecordDict(content), reply_to=message)


def note(context: Context, line: str) -> None:
    """For tests of restarts: write down what is done, and in the second round wait for a sign."""
    said = context.node_config
    if "log" in said:
        with Path(str(said["log"])).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    if "gate" in said and line == "round 2":
        deadline = time.monotonic() + 100
        while not Path(str(said["gate"])).exists() and time.monotonic() < deadline:
            time.sleep(0.02)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """A loss of the new arrays, exact as any single number is."""
    config, node = message.content["config"], int(context.node_config["partition-id"])
    loss = float(message.content["arrays"]["kernel"].numpy()[node].sum())
    metrics = MetricRecord(
        {
            "num-examples": MEAN[node],
            "loss": loss,
            "tasks": context.state["past"]["tasks"],
            "round": config["server-round"],
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@client_app.query("echo")
def echo(message: Message, context: Context) -> Message:
    """What came, and who answers."""
    node = ConfigRecord({"partition-id": context.node_config["partition-id"]})
    return Message(RecordDict({**message.content, "node": node}), reply_to=message)


EVERYTHING = {
    "whole": 2**63 - 1,
    "negative": -(2**63),
    "real": 0.1,
    "tiny": 5e-324,
    "zero": -0.0,
    "endless": float("inf"),
    "yes": True,
    "text": "naïve\n",
    "raw": b"\x00\xff",
    "wholes": [1, -2],
    "reals": [0.5, -0.25],
    "texts": ["", "b"],
    "raws": [b"", b"\x01"],
    "flags": [True, False],
}
"""Every kind of value that a ConfigRecord holds."""

KINDS = ("float16", "float32", "float64", "int8", "uint64", "bool", "complex64")


def everything() -> RecordDict:
    """A content with every kind of value and array, one of a layout that is not NumPy's."""
    arrays = {kind: Array(np.arange(6).reshape(2, 3).astype(kind)) for kind in KINDS}
    arrays["empty"] = Array(np.zeros((0, 4)))
    arrays["own"] = Array("uint8", (70_000,), "somebody.own", bytes(70_000))
    numbers = {k: v for k, v in EVERYTHING.items() if k in ("whole", "tiny", "wholes", "reals")}
    records = {"c": ConfigRecord(dict(EVERYTHING)), "m": MetricRecord(numbers)}
    return RecordDict({"a": ArrayRecord(arrays), **records, "none": ConfigRecord()})


def run_echo(grid: Grid) -> dict[str, bytes]:
    """What comes back from each node that is sent everything."""
    messages = [Message(everything(), n, "query.echo") for n in sorted(grid.get_node_ids())]
    found = {}
    for reply in grid.send_and_receive(messages, timeout=60):
        node = reply.content["node"]["partition-id"]
        for key, record in reply.content.items():
            for name, value in record.items():
                kind, data = described(value)
                found[f"{node} {key} {name} {kind}"] = data
    return found


def described(value: object) -> tuple[str, bytes]:
    """The kind of an array or value, and all of it as bytes."""
    if isinstance(value, Array):
        return f"{value.dtype} {tuple(value.shape)} {value.stype}", value.data
    return type(value).__name__, repr(value).encode()


def start_arrays() -> ArrayRecord:
    rng = np.random.default_rng(0)
    return ArrayRecord(
        {n: Array(np.asarray(rng.normal(size=shape))) for n, shape in SHAPES.items()}
    )


def run_case(grid: Grid, name: str) -> Result:
    """One strategy, from its seeds on."""
    make, config = CASES[name]
    random.seed(0)
    np.random.seed(0)
    return make().start(
        grid,
        start_arrays(),
        num_rounds=ROUNDS,
        timeout=60,
        train_config=ConfigRecord(dict(config)),
    )


def frozen(result: Result) -> dict[str, bytes]:
    """Everything in a result, as bytes to compare."""
    arrays = {f"array {n}": a.numpy().tobytes() for n, a in result.arrays.items()}
    kinds = {n: f"{a.dtype} {a.shape}".encode() for n, a in result.arrays.items()}
    metrics = {
        "train": result.train_metrics_clientapp,
        "evaluate": result.evaluate_metrics_clientapp,
    }
    said = {
        f"{kind} {number} {key}": repr(value).encode()
        for kind, rounds in metrics.items()
        for number, record in rounds.items()
        for key, value in record.items()
    }
    return arrays | kinds | said


def every_case(grid: Grid) -> dict[str, dict[str, str]]:
    """All of them over one grid, to be written as JSON."""
    return {case: hexed(frozen(run_case(grid, case))) for case in CASES} | {
        "echo": hexed(run_echo(grid))
    }


def hexed(found: dict[str, bytes]) -> dict[str, str]:
    return {key: value.hex() for key, value in found.items()}


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run every case, or the one that the run config names, and leave what it gave in a file."""
    case = str(context.run_config.get("case", ""))
    found = {case: hexed(frozen(run_case(grid, case)))} if case else every_case(grid)
    context.state["said"] = ConfigRecord({"cases": list(found)})
    Path(str(context.run_config["out"])).write_text(json.dumps(found), encoding="utf-8")
