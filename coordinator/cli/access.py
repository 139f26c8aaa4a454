"""Commands for operators' certificates and the authority; `add` registers them."""

from pathlib import Path
from typing import Annotated

import typer

from fedmore.protos.system.files import at_home
from fedmore.protos.system.terminal import console, echo

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the operator.")]
Days = Annotated[int, typer.Option(min=1, max=825, help="Days until the certificate expires.")]

operator = typer.Typer(
    help="Manage operators on other machines and their certificates.", no_args_is_help=True
)
authority = typer.Typer(
    help="Manage the federation's certificate authority and its key.", no_args_is_help=True
)


def add(app: typer.Typer) -> None:
    """Add these groups of commands to the program."""
    app.add_typer(operator, name="operator")
    app.add_typer(authority, name="authority")


@operator.command("add")
def add_operator(
    directory: Directory,
    name: Name,
    out: Annotated[
        Path,
        typer.Option(help="File to write; it contains a private key.", callback=at_home),
    ],
    days: Days = 90,
) -> None:
    """Write an access file, with which an operator controls the coordinator from elsewhere."""
    from fedmore.coordinator.folder import operator_access

    operator_access.write_access(directory, name, out, days)
    echo(f"{out}: gives full control; send it to {name} over a safe channel")
    echo(f"  coordinator status {out.name}    (also invite, revoke, stop, health)")


@operator.command("list")
def list_operators(directory: Directory) -> None:
    """List the valid operators; `operator` is the folder's own certificate."""
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
    """Revoke an operator's certificate, from its next call on."""
    from fedmore.coordinator.folder import operator_access

    operator_access.revoke_access(directory, name)
    echo(f"{name} is no longer an operator")


@operator.command("rotate")
def rotate_operator(
    directory: Directory,
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; not needed for `operator`.", callback=at_home),
    ] = None,
    days: Days = 90,
) -> None:
    """Make a new certificate for an operator; the previous one is invalid from then on."""
    from fedmore.coordinator.folder import operator_access

    operator_access.rotate_access(directory, name, out, days)
    echo(f"{name} has a new certificate; the previous one is no longer valid")


@authority.command()
def protect(directory: Directory) -> None:
    """Encrypt the authority's key with a passphrase, which `start` and `invite` then ask for.

    The new passphrase is read from FEDMORE_CA_NEW_PASSPHRASE or asked for at the terminal; the
    present one, if there is one, from FEDMORE_CA_PASSPHRASE.
    """
    from fedmore.coordinator.pki import authority as authorities

    echo(f"{authorities.protect(directory)}: encrypted")


@authority.command()
def move(
    directory: Directory,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="New path of the key.")],
) -> None:
    """Move the authority's key, for example to a disk that is kept in a safe."""
    from fedmore.coordinator.pki import authority as authorities

    authorities.move(directory, target)
    echo(f"{target}: the authority's key; `start`, `invite` and `renew` look for it there")


@authority.command()
def roll(directory: Directory) -> None:
    """Replace the authority, for example because its key was stolen.

    All certificates are invalid from then on. Members keep their keys and contributions, and come
    back with an invite of `coordinator invite DIR NAME --again`.
    """
    from fedmore.coordinator.run import operator_api

    members = operator_api.roll(directory)
    echo("the authority was replaced; all operators' files and invites are invalid")
    for name in members:
        echo(f"  coordinator invite {directory} {name} --again --out {name}.json")
