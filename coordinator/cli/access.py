"""Commands about operators' certificates and the authority: `add` puts them into `coordinator`."""

from pathlib import Path
from typing import Annotated

import typer

from fedmore.protos.system.files import at_home
from fedmore.protos.system.terminal import console, echo

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the operator is called.")]
Days = Annotated[int, typer.Option(min=1, max=825, help="Until it expires.")]

operator = typer.Typer(
    help="Operators elsewhere: who is let in, and by which certificate.", no_args_is_help=True
)
authority = typer.Typer(
    help="The federation's authority: its key's place and passphrase.", no_args_is_help=True
)


def add(app: typer.Typer) -> None:
    """Give the program these groups of commands."""
    app.add_typer(operator, name="operator")
    app.add_typer(authority, name="authority")


@operator.command("add")
def add_operator(
    directory: Directory,
    name: Name,
    out: Annotated[
        Path,
        typer.Option(help="Where to write the file; it holds a private key.", callback=at_home),
    ],
    days: Days = 90,
) -> None:
    """Write a file with which an operator asks and steers the coordinator from elsewhere."""
    from fedmore.coordinator.folder import operator_access

    operator_access.write_access(directory, name, out, days)
    echo(f"{out}: as good as you; give it to {name} over a safe channel")
    echo(f"  coordinator status {out.name}    (also invite, revoke, stop, health)")


@operator.command("list")
def list_operators(directory: Directory) -> None:
    """List the operators who are let in; `operator` is the folder's own certificate."""
    from fedmore.coordinator.folder import operator_access
    from fedmore.coordinator.monitor.dashboard import cell
    from fedmore.coordinator.monitor.status import clock_time, narrow_table

    table = narrow_table("operator", "made", "expires", "key")
    for one in operator_access.operators(directory):
        expires = one.expires[:10]
        table.add_row(cell(one.name), clock_time(one.made), expires, one.identity[:16])
    console().print(table)


@operator.command("revoke")
def revoke_operator(directory: Directory, name: Name) -> None:
    """Let an operator in no more, from its next call on."""
    from fedmore.coordinator.folder import operator_access

    operator_access.revoke_access(directory, name)
    echo(f"{name} is no operator any more")


@operator.command("rotate")
def rotate_operator(
    directory: Directory,
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the new file; not for `operator`.", callback=at_home),
    ] = None,
    days: Days = 90,
) -> None:
    """Make another certificate for an operator; its present one is worth nothing from then on."""
    from fedmore.coordinator.folder import operator_access

    operator_access.rotate_access(directory, name, out, days)
    echo(f"{name} has another certificate; the one before is let in no more")


@authority.command()
def protect(directory: Directory) -> None:
    """Encrypt the authority's key with a passphrase, which `start` and `invite` then ask for.

    It is asked for at a terminal, or read from FEDMORE_CA_NEW_PASSPHRASE; the present one, where
    there is one, from FEDMORE_CA_PASSPHRASE.
    """
    from fedmore.coordinator.pki import authority as authorities

    echo(f"{authorities.protect(directory)}: encrypted")


@authority.command()
def move(
    directory: Directory,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where the key is to lie.")],
) -> None:
    """Have the authority's key lie elsewhere, such as on a disk that is kept in a safe."""
    from fedmore.coordinator.pki import authority as authorities

    authorities.move(directory, target)
    echo(f"{target}: the authority's key; `start`, `invite` and `renew` look for it there")


@authority.command()
def roll(directory: Directory) -> None:
    """Put another authority in place of this one, whose key may be in wrong hands.

    Every certificate is worth nothing from then on. Members keep their keys and what they
    contributed, and come back with an invite of `coordinator invite DIR NAME --again`.
    """
    from fedmore.coordinator.run import operator_api

    members = operator_api.roll(directory)
    echo("another authority; all operators' files and invites are worth nothing any more")
    for name in members:
        echo(f"  coordinator invite {directory} {name} --again --out {name}.json")
