"""Engine `ray`: the same two apps in Flower's own simulation, whose workers are Ray actors.

Each actor is a process that loads its own copy of the base. Flower gives a client only the number
of its partition, and `client_app` maps it to the scenario's client.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedmore.coordinator.folder.create import create
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.run.external_grid import run_over_grid
from fedmore.experts.errors import ConfigError, RoundError
from fedmore.protos.wire.flower_compat import simulate
from fedmore.protos.wire.status import describe
from fedmore.sims.engines.local import enrol, threads_of
from fedmore.sims.engines.prepare import Prepared
from fedmore.sims.engines.stoppable import Stoppable

NODES_COME_S = 300.0
OBJECT_STORE = 256 << 20
"""Bytes of shared memory for messages in flight; more go to disk."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # an actor without a share of a GPU still sees it
    "RAY_DEDUP_LOGS": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def run(prepared: Prepared) -> None:
    """Run the whole plan; raises `ConfigError` if Ray is not installed."""
    with environment(QUIET), scratch() as folder:
        ray = import_ray()
        made = create(prepared.directory, prepared.config, print)
        prepared = replace(prepared, config=made)
        configs, stopped = enrol_all(prepared), threading.Event()
        server, failed = server_app(prepared.directory, stopped)
        try:
            simulate(server, client_app(configs), len(configs), backend(prepared, folder))
        except RuntimeError as error:  # Flower raises it for all its failures
            raise RoundError(f"Flower's simulation ended: {describe(root(error))}") from error
        finally:
            stopped.set()
            ray.shutdown()  # in case the simulation failed before its own shutdown
        if failed:
            raise failed[0]


def root(error: BaseException) -> BaseException:
    """The first error of a chain."""
    return root(error.__cause__) if error.__cause__ else error


def import_ray() -> Any:
    """Import Ray; raises `ConfigError` if it is not installed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'fedmore[ray]'") from error
    return ray


def enrol_all(prepared: Prepared) -> list[dict[str, Any]]:
    """Enrol every client; returns the node configs by partition."""
    with open_federation(prepared.directory) as federation:
        clients = [enrol(prepared, client, federation) for client in prepared.scenario.clients]
    return [dict(node.context.node_config) for _, node in clients]


def client_app(configs: Sequence[dict[str, Any]]) -> ClientApp:
    """Make the ClientApp that runs client `configs[i]` for partition i."""
    app = ClientApp()

    @app.query("hello")
    @app.train()
    @app.train("embed")
    def answer(message: Message, context: Context) -> Message:
        from fedmore.client.client_app import handle

        config = configs[int(context.node_config["partition-id"])]
        run_id, node_id = context.run_id, context.node_id
        return handle(message, Context(run_id, node_id, config, context.state, {}))

    return app


def server_app(directory: Path, stopped: threading.Event) -> tuple[ServerApp, list[BaseException]]:
    """Make the ServerApp for the plan in `directory`, and a list that gets its failure."""
    app, failed = ServerApp(), list[BaseException]()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        try:
            run_over_grid(directory, Stoppable(grid, stopped), Console(), NODES_COME_S)
        except BaseException as error:
            failed.append(error)

    return app, failed


def backend(prepared: Prepared, folder: str) -> dict[str, Any]:
    """Ray's options: an actor per thread of engine `local`, a bounded store, no dashboard."""
    return {
        "init_args": {
            "num_cpus": threads_of(prepared),
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
            "_temp_dir": folder,
            "logging_level": logging.ERROR,
            "log_to_driver": False,
        },
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder for Ray's sockets and logs; Ray's last process may write there while it ends."""
    return tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables, and restore them and PYTHONPATH, which Flower's simulation changes."""
    before = {key: os.environ.get(key) for key in (*values, "PYTHONPATH")}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
