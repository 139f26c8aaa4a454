"""`fedmore`: run scenarios. Imports nothing heavy, so that `--help` answers at once."""

import os
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Federated mixtures of experts of different rank.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
sim = typer.Typer(help="Whole federations on this machine.", no_args_is_help=True)
app.add_typer(sim, name="sim")


class Engine(StrEnum):
    """How the two apps are run."""

    grpc = "grpc"
    local = "local"


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or FEDMORE_DEBUG=1).")
    ] = False,
) -> None:
    """Federated mixtures of experts of different rank."""
    if debug:
        os.environ["FEDMORE_DEBUG"] = "1"


@sim.command("list")
def list_scenarios() -> None:
    """List the scenarios."""
    from rich.console import Console
    from rich.table import Table

    from fedmore.sims.scenarios.catalogue import SCENARIOS

    table = Table("scenario", "what it is", box=None)
    for name, make in SCENARIOS.items():
        table.add_row(name, make().description)
    Console().print(table)


@sim.command("fetch")
def fetch_scenario(
    name: Annotated[str, typer.Argument(help="Which scenario; `fedmore sim list` names them.")],
) -> None:
    """Get the model and the text of a scenario; afterwards it needs no network."""
    from rich.console import Console

    from fedmore.sims.engines.fetch import fetch
    from fedmore.sims.scenarios.catalogue import scenario

    fetch(scenario(name), Console())


@sim.command("run")
def run_scenario(
    name: Annotated[str, typer.Argument(help="Which scenario; `fedmore sim list` names them.")],
    engine: Annotated[
        Engine, typer.Option(help="grpc: real processes on loopback; local: all in this one.")
    ] = Engine.grpc,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random; by default the scenario's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the run; by default runs/NAME-TIME.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of federation.toml, such as stages.0.steps=5; repeat for more.",
        ),
    ] = None,
) -> None:
    """Run a scenario and write report.json, report.html and the plots."""
    from rich.console import Console

    from fedmore.protos.exits import interruptible
    from fedmore.sims.engines.prepare import prepare
    from fedmore.sims.engines.run import run
    from fedmore.sims.scenarios.catalogue import scenario

    chosen = scenario(name)
    directory = out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    prepared = prepare(chosen, directory, seed=seed, settings=settings or ())
    with interruptible(f"what was done by then is in {directory}"):
        run(prepared, engine.value, Console())


def main() -> None:
    """Entry point of the console script."""
    from fedmore.protos.exits import run as run_program

    run_program(app)


if __name__ == "__main__":
    main()
