"""A Flower app that only echoes bytes, to measure a round's time and the bytes on the wire.

The same app runs on our engine and on Flower's. Its run config: `out` (a file of JSON lines, one
per round), `clients`, `rounds`, and `down` and `up`, the bytes sent to and by each client in a
round.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

POLL_S = 0.05
TIMEOUT_S = 600.0

server_app = ServerApp()
client_app = ClientApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every client in each round, and write the seconds of every round to `out`."""
    config = context.run_config
    nodes = wait_for(grid, int(config["clients"]))
    for number in range(int(config["rounds"])):
        messages = [asked(node, number, config) for node in nodes]
        began = time.perf_counter()
        failed = [m.error.reason for m in grid.send_and_receive(messages, timeout=TIMEOUT_S)
                  if m.has_error()]  # fmt: skip
        if failed:
            raise RuntimeError(f"round {number}: {failed[0]}")
        row = {"round": number, "seconds": time.perf_counter() - began, "at": time.time()}
        with Path(str(config["out"])).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def asked(node: int, number: int, config: Mapping[str, Any]) -> Message:
    """Make the message of round `number` to `node`."""
    ask = {"up": int(config["up"]), "number": number}
    content = filled(int(config["down"]), node + number, ask)
    return Message(content, dst_node_id=node, message_type="query")


@client_app.query()
def answer(message: Message, context: Context) -> Message:
    """Reply with the number of bytes that was asked for."""
    ask = message.content.config_records["ask"]
    up, seed = int(str(ask["up"])), context.node_id - int(str(ask["number"]))
    return Message(filled(up, seed, {}), reply_to=message)


def wait_for(grid: Grid, count: int) -> list[int]:
    """Wait until `count` nodes are connected; returns their ids."""
    while len(nodes := list(grid.get_node_ids())) < count:
        time.sleep(POLL_S)
    return nodes


def filled(size: int, seed: int, ask: dict[str, int]) -> RecordDict:
    """Make a record with `ask` and `size` new random bytes; equal arrays are sent only once."""
    content = RecordDict({"ask": ConfigRecord({**ask})})
    if size:
        data = np.random.default_rng(seed).bytes(size)
        content["data"] = ArrayRecord({"x": Array("uint8", (size,), "bench", data)})
    return content
