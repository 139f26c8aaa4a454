"""`coordinator experts DIR`, and the commands about single versions; `add` registers them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedmore.protos.system.terminal import console, echo

LIST = "list"
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


class ListByDefault(TyperGroup):
    """A group that takes `experts DIR` for `experts list DIR`."""

    default = LIST

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the command unless there is one, or only a question for help."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [self.default, *args]
        return super().parse_args(ctx, args)


group = typer.Typer(
    cls=ListByDefault,
    no_args_is_help=True,
    help="List the versions of every expert (experts DIR), or work on single ones.",
)


def add(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(group, name="experts")


@group.command(LIST)
def list_versions(
    directory: Directory,
    as_json: AsJson = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Show which version was made from which.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check records, signatures and tensors; fails if one lies."),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(help="With --verify: a copy of tls/lineage.pub that was kept elsewhere."),
    ] = None,
) -> None:
    """List every version of every expert and adapter; `list` may be left out."""
    from fedmore.coordinator.folder.federation import open_federation
    from fedmore.coordinator.lineage.verification import verify as verified
    from fedmore.coordinator.monitor import status as states
    from fedmore.coordinator.monitor.version_tree import lines_of, tree_view

    with open_federation(directory) as federation:
        if verify or key is not None:
            for line in lines_of(verified(federation, key)):
                echo(line)
            return
        rows = states.experts(federation)
        view = tree_view(federation) if tree else states.experts_view(rows)
    if as_json:
        echo(json.dumps(rows, indent=2))
    else:
        console().print(view)


Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION", help="The first digits of its digest, or an expert's name: its newest."
    ),
]


@group.command()
def diff(
    directory: Directory,
    one: Annotated[str, typer.Argument(metavar="A", help="A version, as above.")],
    two: Annotated[str, typer.Argument(metavar="B", help="Another version.")],
    as_json: AsJson = False,
) -> None:
    """Compare two versions: ranks, norms, distance, owners, settings, scores."""
    from fedmore.coordinator.folder.federation import open_federation
    from fedmore.coordinator.lineage.difference import compare
    from fedmore.coordinator.lineage.promotion import named
    from fedmore.coordinator.monitor.version_tree import difference_lines

    with open_federation(directory) as federation:
        registry = federation.registry
        found = compare(federation, named(registry, one), named(registry, two))
    for line in [json.dumps(found, indent=2)] if as_json else difference_lines(found):
        echo(line)


@group.command()
def promote(directory: Directory, version: Version) -> None:
    """Put a held or newer version into use; the next `coordinator assemble` takes it."""
    from fedmore.coordinator.lineage.decisions import promote_version

    row, _ = promote_version(directory, version)
    echo(f"{row.name}: {row.digest[:12]} is promoted")
    echo(f"`coordinator assemble {directory}` makes a mixture with it")


@group.command()
def hold(
    directory: Directory,
    version: Version,
    why: Annotated[str, typer.Option(help="The reason, which `status` shows.")] = "",
) -> None:
    """Keep a version out of mixtures; the newest older one that is not held takes its place."""
    from fedmore.coordinator.lineage.decisions import hold_version

    row, used = hold_version(directory, version, why)
    echo(f"{row.name}: {row.digest[:12]} is held")
    echo(f"  in use: {used.digest[:12]}" if used else "  in use: no version of it")
    echo(f"`coordinator assemble {directory}` makes the mixture anew")


@group.command()
def restore(directory: Directory, version: Version) -> None:
    """Put an older version into use again; what the next round trains on stays as it is."""
    from fedmore.coordinator.lineage.decisions import restore_version

    row, _ = restore_version(directory, version)
    echo(f"{row.name}: {row.digest[:12]} is promoted again")
    echo("  the next round continues from the last one, and makes a newer version")
    echo(f"`coordinator assemble {directory}` makes a mixture with it")


@group.command()
def gc(
    directory: Directory,
    keep: Annotated[
        int, typer.Option(min=0, help="Older versions of each expert that stay for restore.")
    ] = 2,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete them; without it they are only listed.")
    ] = False,
) -> None:
    """Delete versions that are neither promoted, newest nor kept for `restore`."""
    from fedmore.coordinator.folder.federation import open_federation, running_alone
    from fedmore.coordinator.lineage.collection import collect, garbage

    with running_alone(directory), open_federation(directory) as federation:
        found = garbage(federation, keep)
        for row in found.versions:
            echo(f"{row.name} {row.digest[:12]}")
        if delete:
            federation.registry.database.check_writable()
            collect(federation, found)
    done = "are deleted" if delete else "can be deleted; --delete does it"
    echo(
        f"{len(found.versions)} versions and {len(found.blobs)} blobs, {found.size:,} bytes: {done}"
    )
