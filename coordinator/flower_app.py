"""The server side of fedmore as a Flower App: `[tool.flwr.app]` in pyproject.toml names `app`.

The run config says where on this machine the federation's folder is (`coordinator init` made it)
and how many seconds to wait for its nodes.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmore.coordinator.hosted import carry_out
from fedmore.experts.errors import ConfigError
from fedmore.protos.terminal import console

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the plan of the federation that the run config names."""
    config = context.run_config
    directory = str(config.get("directory", ""))
    if not directory:
        raise ConfigError(
            "run config: say which folder of `coordinator init` to run, "
            "flwr run --run-config 'directory=\"/path\"'"
        )
    carry_out(Path(directory), grid, console(), float(config.get("patience", 600.0)))
