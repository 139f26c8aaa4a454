"""Flower's in-process run of every case, in one start of Ray: `python simulate.py OUT SCRATCH`."""

import json
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from stock import NODES, client_app, every_case

BACKEND = {
    "init_args": {
        "num_cpus": 1,
        "include_dashboard": False,
        "object_store_memory": 80 << 20,
        "_temp_dir": sys.argv[2],
    },
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
}
found: dict[str, dict[str, str]] = {}
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    found.update(every_case(grid))


if __name__ == "__main__":
    run_simulation(server_app, client_app, NODES, backend_config=BACKEND)
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
