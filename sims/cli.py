"""`fedmore`: run scenarios. Imports nothing heavy, so that `--help` answers at once."""

import os
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedmore.sims.bench.cli import app as bench_app

app = typer.Typer(
    help="Federated mixtures of experts of different rank.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
sim = typer.Typer(help="Whole federations on this machine.", no_args_is_help=True)
app.add_typer(sim, name="sim")
app.add_typer(bench_app, name="bench")


class Engine(StrEnum):
    """How the two apps are run."""

    grpc = "grpc"
    local = "local"
    ray = "ray"


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
        Engine,
        typer.Option(
            help="grpc: real processes; local: all in this one; ray: Flower's simulation."
        ),
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


@sim.command("codecs")
def compare_codecs(
    name: Annotated[str, typer.Argument(help="Which scenario.")] = "quickstart",
    codec: Annotated[
        list[str] | None,
        typer.Option(help="A codec or policy; repeat. Compared with the first: fp32, sign1."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeat for more: 0, 1, 2.")] = None,
    engine: Annotated[Engine, typer.Option(help="As for `run`.")] = Engine.local,
    out: Annotated[
        Path, typer.Option(help="Where the runs go; those that are there are not run again.")
    ] = Path("runs/codecs"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for `run`.")
    ] = None,
) -> None:
    """Run a scenario with several codecs and seeds, and write what each costs to codecs.json."""
    from rich.console import Console

    from fedmore.protos.exits import interruptible
    from fedmore.sims.engines import codecs
    from fedmore.sims.scenarios.catalogue import scenario

    chosen, tags = scenario(name), codec or ["fp32", "sign1"]
    with interruptible(f"runs that are done are in {out}; the same command goes on from there"):
        outcomes = codecs.study(chosen, tags, seed or [0, 1, 2], engine.value, out, settings or ())
    Console().print(codecs.table_of(outcomes))
    Console().print(codecs.write(chosen, engine.value, outcomes, out))


def main() -> None:
    """Entry point of the console script."""
    from fedmore.protos.exits import run as run_program

    run_program(app)


if __name__ == "__main__":
    main()
