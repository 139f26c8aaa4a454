"""`fedmore`, the command line for scenarios; it imports nothing heavy, so `--help` is quick."""

import os
from collections.abc import Sequence
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
sim = typer.Typer(help="Run whole federations on this machine.", no_args_is_help=True)
app.add_typer(sim, name="sim")
app.add_typer(bench_app, name="bench")


class Engine(StrEnum):
    """Ways to run the two apps."""

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
    """List the scenarios and studies, and the plugins that are installed."""
    from rich.console import Console
    from rich.table import Table

    from fedmore.sims.catalogue import SCENARIOS, STUDIES
    from fedmore.strategies.plugins import all_plugins

    table = Table("scenario", "what it is", box=None)
    for name, make in SCENARIOS.items():
        table.add_row(name, make().description)
    table.add_section()
    for name, study in STUDIES.items():
        if name not in SCENARIOS:
            table.add_row(name, f"A study. {(study.__doc__ or '').rstrip('.')}")
    table.add_section()
    for plugin in all_plugins():
        table.add_row(plugin.key, f"A plugin, of the package {plugin.package}")
    Console().print(table)


@sim.command("fetch")
def fetch_scenario(
    name: Annotated[str, typer.Argument(help="Name of a scenario; `fedmore sim list` shows all.")],
) -> None:
    """Download the model and the text of a scenario; afterwards it needs no network."""
    from rich.console import Console

    from fedmore.sims.catalogue import scenario
    from fedmore.sims.engines.fetch import fetch

    fetch(scenario(name), Console())


@sim.command("shares")
def show_shares(
    name: Annotated[str, typer.Argument(help="Name of a scenario; `fedmore sim list` shows all.")],
) -> None:
    """Measure how much held-out text repeats training text, and owners of one text each other."""
    from rich.console import Console

    from fedmore.sims.catalogue import scenario
    from fedmore.sims.scenarios.shares import table_of

    Console().print(table_of(scenario(name)))


@sim.command("run")
def run_scenario(
    name: Annotated[str, typer.Argument(help="Name of a scenario; `fedmore sim list` shows all.")],
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="grpc: real processes; local: one process; ray: Flower's simulation. "
            "By default grpc, for a study local."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed; by default the scenario's, for a study 0, 1 and 2."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New folder for the run; by default runs/NAME-TIME. A study continues in the "
            "folder where it stopped; by default runs/NAME."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of federation.toml, such as stages.0.steps=5; repeat for more.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Run a study on a tiny base from end to end, in two minutes."),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder for a study's JSON and plots; by default its own folder."),
    ] = None,
) -> None:
    """Run a scenario and write report.json, report.html and the plots; or a study of many runs."""
    from rich.console import Console

    from fedmore.experts.errors import ConfigError
    from fedmore.protos.runtime.exits import interruptible
    from fedmore.sims.catalogue import STUDIES, scenario
    from fedmore.sims.engines.prepare import prepare
    from fedmore.sims.engines.run import run

    if name in STUDIES:
        tag = engine.value if engine else "local"
        _run_study(name, tag, seed, out, settings or (), quick=quick, results=results)
        return
    if quick or results:
        raise ConfigError(f"--quick and --results are for studies: {', '.join(STUDIES)}")
    chosen, engine = scenario(name), engine or Engine.grpc
    directory = out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    prepared = prepare(chosen, directory, seed=seed, settings=settings or ())
    with interruptible(f"the finished part is in {directory}"):
        run(prepared, engine.value, Console())


def _run_study(
    name: str,
    engine: str,
    seed: int | None,
    out: Path | None,
    settings: Sequence[str],
    *,
    quick: bool,
    results: Path | None,
) -> None:
    from rich.console import Console

    from fedmore.protos.runtime.exits import interruptible
    from fedmore.sims.catalogue import STUDIES

    folder = out or Path("runs") / (f"{name}-quick" if quick else name)
    seeds = None if seed is None else (seed,)
    console = Console()
    with interruptible(f"the finished part is in {folder}; the same command continues from there"):
        path = STUDIES[name]()(
            out=folder, seeds=seeds, quick=quick, engine=engine, settings=settings,
            results_in=results, console=console,
        )  # fmt: skip
    console.print(path)


@sim.command("claims")
def judge_claims(
    result: Annotated[Path, typer.Argument(help="The routing.json of a finished study.")],
) -> None:
    """Judge the claims of a finished routing study again, from the figures in its JSON."""
    from rich.console import Console

    from fedmore.sims.studies.routing.results import judged
    from fedmore.sims.studies.routing.shown import claims_table

    Console().print(claims_table(judged(result)["claims"]))


@sim.command("codecs")
def compare_codecs(
    name: Annotated[str, typer.Argument(help="Name of a scenario.")] = "quickstart",
    codec: Annotated[
        list[str] | None,
        typer.Option(
            help="A codec or policy; repeat for more. By default fp32 and sign1. Each is compared "
            "with the first. With bits1, bits2 or bits4 the factors are trained at that width."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Random seed; repeat for more. By default 0, 1 and 2.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="How to run the apps, as for `run`.")
    ] = Engine.local,
    out: Annotated[
        Path, typer.Option(help="Folder for the runs; finished ones are not run again.")
    ] = Path("runs/codecs"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as for `run`."),
    ] = None,
) -> None:
    """Run a scenario with several codecs and seeds, and write the cost of each to codecs.json."""
    from rich.console import Console

    from fedmore.protos.runtime.exits import interruptible
    from fedmore.sims.catalogue import scenario
    from fedmore.sims.studies import codecs

    chosen, tags = scenario(name), codec or ["fp32", "sign1"]
    with interruptible(f"finished runs are in {out}; the same command continues from there"):
        outcomes = codecs.study(chosen, tags, seed or [0, 1, 2], engine.value, out, settings or ())
    Console().print(codecs.table_of(outcomes))
    Console().print(codecs.write(chosen, engine.value, outcomes, out))


def main() -> None:
    """Entry point of the console script."""
    from fedmore.protos.runtime.exits import run as run_program

    run_program(app)


if __name__ == "__main__":
    main()
