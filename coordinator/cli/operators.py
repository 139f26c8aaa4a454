"""Commands about who may do what: `add` puts them into the `coordinator` program."""

from pathlib import Path
from typing import Annotated

import typer

from fedmore.coordinator.cli import access
from fedmore.protos.system.terminal import echo

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
OpenerName = Annotated[
    str, typer.Option("--opener", help="What opens a document: a token, or none; auto: measured.")
]
OpenWindows = Annotated[
    bool, typer.Option("--open-windows", help="With --opener: windows inside a document too.")
]
Place = Annotated[
    Path,
    typer.Argument(metavar="DIR|FILE", help="The federation's folder, or an operator's file."),
]
Reason = Annotated[str, typer.Option(help="Why; kept, and told to whom it concerns.")]


def add(app: typer.Typer) -> None:
    """Give the program these commands."""
    for command in (plan, revoke, withdraw, stop, health, renew):
        app.command()(command)
    access.add(app)


def plan(
    directory: Directory,
    out: Annotated[
        Path | None, typer.Option(help="Write it here; owners give it to `client join --plan`.")
    ] = None,
) -> None:
    """Show what owners are asked to agree to."""
    from fedmore.coordinator.config.terms import terms_of
    from fedmore.coordinator.folder.federation import open_federation
    from fedmore.protos.system.files import export
    from fedmore.strategies.terms import rows

    with open_federation(directory) as federation:
        terms = terms_of(federation.config)
    for kind, line in rows(terms):
        echo(f"{kind + ':':<11}{line}")
    if out is not None:
        export(out, terms.dump() + "\n")
        echo(f"{out}: owners pin it with `client join --plan {out.name}`")


def revoke(
    place: Place,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The client.")],
    reason: Reason = "",
) -> None:
    """Let a client, or an invite nobody has used, take part no more; what it did so far stays."""
    from fedmore.coordinator.run import operator_api

    operator_api.revoke(place, name, reason)
    echo(f"{name} may take part no more; its tasks fail, and the name stays taken")


def withdraw(
    directory: Directory,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The client.")],
    reason: Reason = "",
    recover: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Rounds that the remaining owners of an expert train on if it is worse then.",
        ),
    ] = 0,
) -> None:
    """Take a client's work out of every expert at its owner's wish; see also `client withdraw`."""
    from fedmore.coordinator.run import operator_api

    done = operator_api.withdraw(directory, name, reason, recover)
    echo(f"{name} has withdrawn")
    if done.running:
        echo("  the coordinator that runs leaves its work out of the next aggregate")
    for expert, lines in done.told.items():
        echo(f"  {expert}: {'; '.join(lines)}")
    if done.mixture:
        echo("  the mixture: removed, since it held its work")
    for kind, experts in done.recovers.items():
        echo(f"`coordinator start {directory}` goes on with {kind} for {', '.join(experts)};")
        echo("  their owners see a plan of more rounds and agree by `client accept`")
    if done.left:
        echo(f"`coordinator assemble {directory}` makes the mixture without it")
    elif done.told:
        echo("no expert is left, so there is nothing to make a mixture of")


def stop(place: Place, reason: Reason = "") -> None:
    """End a running coordinator as Ctrl-C does; `coordinator start` goes on later."""
    from fedmore.coordinator.run import operator_api

    operator_api.stop(place, reason)
    echo("the coordinator ends; `coordinator start` on its folder goes on")


def health(place: Place) -> None:
    """Ask a running coordinator whether it serves; the exit code says so."""
    from fedmore.coordinator.run import operator_api

    operator_api.check_health(place)
    echo("serving")


def renew(directory: Directory) -> None:
    """Make the certificates of the server, as a changed server.advertise needs, and of the folder.

    Copies of the folder's operator certificate from before are worth nothing from then on.
    """
    from fedmore.coordinator.run import operator_api

    operator_api.renew(directory)
    echo("made; the coordinator uses it from its next start on, and lets copies of the")
    echo("folder's earlier operator certificate in no more")
