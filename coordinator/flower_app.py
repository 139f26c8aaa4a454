"""The server side of fedmore as a Flower App: `[tool.flwr.app]` in pyproject.toml names `app`.

The run config has the federation's folder on this machine, made by `coordinator init`, and the
number of seconds to wait for its nodes.
"""

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmore.coordinator.config.schema import load_config
from fedmore.coordinator.run.external_grid import run_over_grid
from fedmore.experts.errors import ConfigError
from fedmore.experts.text.opener import AUTO
from fedmore.protos.system.terminal import console

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
    check_opener(Path(directory), config)
    run_over_grid(Path(directory), grid, console(), float(config.get("patience", 600.0)))


def check_opener(directory: Path, run_config: Mapping[str, object]) -> None:
    """Raise `ConfigError` unless the run config gives clients the federation's opener."""
    base = load_config(directory).base
    said = run_config.get("opener", AUTO), run_config.get("open-windows", False)
    if said != (base.opener, base.open_windows):
        raise ConfigError(
            "run config: the clients must open documents as this federation does, flwr run "
            f"--run-config 'opener=\"{base.opener}\" open-windows={str(base.open_windows).lower()}'"
        )
