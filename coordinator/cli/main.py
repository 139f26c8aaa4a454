"""`coordinator`, the operator's program; it imports nothing heavy, so that `--help` is quick."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmore.coordinator.cli import conversion, experts, generate, operators
from fedmore.coordinator.cli.operators import OpenerName, OpenWindows, Place
from fedmore.experts.spec import ExpertStorage
from fedmore.protos.system.files import at_home
from fedmore.protos.system.terminal import console, echo

app = typer.Typer(
    help="Run a federation: invite clients, train experts, build and evaluate the mixture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
ServerAppName = Annotated[
    str, typer.Option("--app", metavar="MODULE:OBJECT", help="A Flower ServerApp to run instead.")
]
RunConfig = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Run config of the Flower app; repeat for more."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or FEDMORE_DEBUG=1).")
    ] = False,
) -> None:
    """Run a federation: invite clients, train experts, build and evaluate the mixture."""
    if debug:
        os.environ["FEDMORE_DEBUG"] = "1"


@app.command()
def init(
    directory: Directory,
    base: Annotated[
        str, typer.Option(help="The base: a folder, or a model's name on the hub.")
    ] = "",
    name: Annotated[
        str, typer.Option(help="Name of the federation; by default the folder's.")
    ] = "",
    domain: Annotated[
        list[str] | None, typer.Option(help="A domain that may be trained; repeat for more.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="A language that may be trained; repeat for more.")
    ] = None,
    clients: Annotated[
        int, typer.Option(min=1, help="Number of clients that the plan waits for.")
    ] = 2,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 means all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 means a free one.")
    ] = 8470,
    advertise: Annotated[
        str, typer.Option(help="Host name or address that clients reach; by default --host.")
    ] = "",
    public_text: Annotated[
        str, typer.Option(help="Path of public text, which the router separates from the domains.")
    ] = "",
    opener: OpenerName = "auto",
    open_windows: OpenWindows = False,
    server_app: ServerAppName = "",
    run_config: RunConfig = None,
    database: Annotated[
        str, typer.Option(help="postgresql+psycopg://user@host/name; no password, see PGPASSWORD.")
    ] = "",
    full: Annotated[
        bool, typer.Option("--full", help="Write every key, also those at their default.")
    ] = False,
) -> None:
    """Create a federation: a commented federation.toml, certificates and an empty registry."""
    from fedmore.coordinator.folder.create import create, default_name, new_config
    from fedmore.protos.runtime.flower_apps import published, values

    defaults = published(server_app, Path.cwd()) if server_app else {}

    config = new_config(
        name=name or default_name(directory),
        base=base,
        domains=tuple(domain or ()),
        languages=tuple(language or ()),
        clients=clients,
        host=host,
        port=port,
        advertise=advertise,
        public_text=public_text,
        opener=opener,
        open_windows=open_windows,
        app=server_app,
        run_config=defaults | values(run_config or (), "--run-config"),
        database=database,
    )
    made = create(directory, config, say, full=full)
    runs = f"Flower app {server_app}" if server_app else f"base {made.base.fingerprint}"
    say(f"federation {made.federation.name!r} in {directory}, {runs}")
    say(f"next: look at {directory / 'federation.toml'}, then")
    say(f"  coordinator invite {directory} NAME --out NAME.json    (once for each client)")
    say(f"  coordinator start {directory}")


@app.command()
def invite(
    place: Place,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    out: Annotated[
        Path, typer.Option(help="File to write; it contains a secret.", callback=at_home)
    ],
    hours: Annotated[float, typer.Option(help="Hours until it expires.")] = 24.0,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without TLS, for `start --insecure`; tests only.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="For a member whose certificate is invalid; it keeps its key."
        ),
    ] = False,
) -> None:
    """Write an invite: it lets one client in, once."""
    from fedmore.coordinator.run import operator_api

    operator_api.invite(place, name, out, insecure=insecure, expires_s=hours * 3600, again=again)
    trains = "--data PATH (--domain NAME | --language CODE)"
    if operator_api.app_of(place):
        trains = "--app MODULE:OBJECT [--node-config KEY=VALUE ...]"
    options = f"{trains} --insecure" if insecure else trains
    say(f"{out}: give it to {name} over a safe channel; then, on that machine:")
    say(f"  client join {out.name} {options}")


@app.command()
def start(
    directory: Directory,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Run without TLS; only for tests on this machine.")
    ] = False,
    patience: Annotated[
        float | None, typer.Option(help="Seconds to wait for missing clients; by default no limit.")
    ] = None,
    server_app: ServerAppName = "",
    run_config: RunConfig = None,
) -> None:
    """Wait for the clients and run the plan; continues where an earlier start stopped."""
    from fedmore.coordinator.run.lifecycle import Settings
    from fedmore.coordinator.run.lifecycle import start as start_federation
    from fedmore.protos.runtime.flower_apps import values

    chosen = values(run_config or (), "--run-config")
    start_federation(directory, console(), Settings(insecure, patience, server_app, chosen))


@app.command()
def status(place: Place, as_json: AsJson = False) -> None:
    """Show the clients and the progress of the plan."""
    from fedmore.coordinator.monitor import status
    from fedmore.coordinator.run import operator_api

    found = operator_api.status(place)
    show(found if as_json else status.status_view(found), as_json)


@app.command()
def assemble(
    directory: Directory,
    router: Annotated[
        str | None,
        typer.Option(
            help="uniform, domain, arrow, softmax, xlora or remix; by default as configured."
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="Most experts per token; 0 means all. By default as configured."),
    ] = None,
    experts: Annotated[
        str, typer.Option(help="Names of experts, separated by commas; by default all.")
    ] = "",
    keep_router: Annotated[
        bool,
        typer.Option(
            "--keep-router", help="Keep what DIR/mixture's router learned; train new experts' rows."
        ),
    ] = False,
    expert_storage: Annotated[
        ExpertStorage,
        typer.Option(
            help="How to store experts: float32, or sign1 with one bit per number, less exact."
        ),
    ] = ExpertStorage.fp32,
) -> None:
    """Build the mixture of base, experts and router in DIR/mixture."""
    from fedmore.coordinator.mixture.commands import AssembleOptions, assemble_mixture

    wanted = AssembleOptions(router, top_k, names(experts), keep_router, expert_storage)
    say(f"assembled: {assemble_mixture(directory, wanted)}")


@app.command()
def evaluate(directory: Directory, as_json: AsJson = False) -> None:
    """Score base, experts and mixture on held-out text; writes DIR/evaluation.json."""
    from fedmore.coordinator.mixture.commands import evaluate_mixture
    from fedmore.coordinator.monitor.status import evaluation_view

    found = evaluate_mixture(directory)
    show(found if as_json else evaluation_view(found), as_json)


experts.add(app)
conversion.add(app)
generate.add(app)
operators.add(app)


def names(text: str) -> tuple[str, ...] | None:
    """Split `a,b` into names; None stands for all."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) or None


def show(content: Any, as_json: bool) -> None:
    """Print JSON for a program, or a view for a person."""
    if as_json:
        echo(json.dumps(content, indent=2))
    else:
        console().print(content)


def say(text: str) -> None:
    """Print a line without wrapping, so that a command in it can be copied."""
    echo(text)


def main() -> None:
    """Entry point of the console script."""
    from fedmore.protos.runtime.exits import run
    from fedmore.protos.system.files import UMASK

    os.umask(UMASK)
    run(app)


if __name__ == "__main__":
    main()
