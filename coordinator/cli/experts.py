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
