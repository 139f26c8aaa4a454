"""Commands for members, the plan and a running coordinator; `add` registers them."""

from pathlib import Path
from typing import Annotated

import typer

from fedmore.coordinator.cli import access
from fedmore.protos.system.terminal import echo

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
OpenerName = Annotated[
    str,
    typer.Option(
        "--opener", help="Token before every document, or none; auto measures which is best."
    ),
]
OpenWindows = Annotated[
    bool,
    typer.Option(
        "--open-windows", help="With --opener: also put it before windows inside a document."
    ),
]
Place = Annotated[
    Path,
    typer.Argument(metavar="DIR|FILE", help="The federation's folder, or an operator's file."),
]
Reason = Annotated[
    str, typer.Option(help="Reason; it is stored and shown to the clients concerned.")
]


def add(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (plan, revoke, withdraw, stop, health, renew):
        app.command()(command)
    access.add(app)


def plan(
    directory: Directory,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; owners can pin it with `client join --plan`."),
    ] = None,
) -> None:
    """Show the plan that owners are asked to agree to."""
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    reason: Reason = "",
) -> None:
    """Exclude a client, or cancel an unused invite; past contributions stay."""
    from fedmore.coordinator.run import operator_api

    operator_api.revoke(place, name, reason)
    echo(f"{name} is excluded; its tasks fail, and the name cannot be used again")


def withdraw(
    directory: Directory,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    reason: Reason = "",
    recover: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Extra rounds for the remaining owners of an expert that became worse.",
        ),
    ] = 0,
) -> None:
    """Remove a client's work from every expert, at its owner's wish; see also `client withdraw`."""
    from fedmore.coordinator.run import operator_api

    done = operator_api.withdraw(directory, name, reason, recover)
    echo(f"{name} has withdrawn")
    if done.running:
        echo("  the coordinator that runs leaves its work out of the next aggregate")
        echo(f"  and writes the evidence to {directory / 'withdrawals'} when its part is gone")
    for expert, lines in done.told.items():
        echo(f"  {expert}: {'; '.join(lines)}")
    if done.mixture:
        echo("  the mixture: removed, since it held its work")
    if done.evidence:
        echo(f"evidence: {done.evidence}")
    for kind, experts in done.recovers.items():
        echo(f"`coordinator start {directory}` goes on with {kind} for {', '.join(experts)};")
        echo("  their owners see a plan of more rounds and agree by `client accept`")
    if done.left:
        echo(f"`coordinator assemble {directory}` makes the mixture without it")
    elif done.told:
        echo("no expert is left, so there is nothing to make a mixture of")


def stop(place: Place, reason: Reason = "") -> None:
    """Stop a running coordinator, as Ctrl-C does; `coordinator start` continues later."""
    from fedmore.coordinator.run import operator_api

    operator_api.stop(place, reason)
    echo("the coordinator stops; `coordinator start` on its folder continues")


def health(place: Place) -> None:
    """Check whether a running coordinator serves; exit code 0 if it does."""
    from fedmore.coordinator.run import operator_api

    operator_api.check_health(place)
    echo("serving")


def renew(directory: Directory) -> None:
    """Renew the certificates of the server and of the folder's operator.

    A changed server.advertise needs it. Older copies of the folder's operator certificate are
    invalid from then on.
    """
    from fedmore.coordinator.run import operator_api

    operator_api.renew(directory)
    echo("made; the coordinator uses it from its next start on, and lets copies of the")
    echo("folder's earlier operator certificate in no more")
