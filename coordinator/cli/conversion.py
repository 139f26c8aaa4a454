"""Commands that take experts in, and change what is stored: `add` puts them into `coordinator`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmore.experts.spec import rank_name
from fedmore.protos.system.terminal import echo

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Directions of every matrix that are kept.")]


def add(app: typer.Typer) -> None:
    """Give the program these commands."""
    app.command("import")(import_expert)
    app.command()(repack)


def import_expert(
    directory: Directory,
    expert: Annotated[str, typer.Option(metavar="NAME", help="What the expert will be called.")],
    source: Annotated[
        Path,
        typer.Option(
            "--from", metavar="PATH", help="A fine-tuned model of the base, or a PEFT adapter."
        ),
    ],
    rank: Rank = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Text like the expert's: the domain router tells it from others by it."),
    ] = None,
) -> None:
    """Take a model or adapter that was trained elsewhere as an expert.

    It gets no part of any member, and none trains it further. An adapter keeps its rank unless
    --rank is lower; a fine-tuned model needs --rank.
    """
    from fedmore.coordinator.mixture.imported_experts import Source, import_expert

    row, found = import_expert(directory, expert, Source(source, rank, text))
    echo(f"{expert}: {row.kind} of rank {rank_name(row.rank)}, {row.params:,} parameters")
    echo(f"  error {found.error:.2%} of the change (Frobenius norm)")
    if found.outside:
        echo(f"  {found.outside:.2%} of the squared change lies outside of the linear layers: lost")
    _tell_next(directory, row.metrics)


def repack(
    directory: Directory,
    expert: Annotated[str, typer.Option(metavar="NAME", help="Which expert.")],
    rank: Annotated[int, typer.Option(min=1, help="Directions of every matrix that are kept.")],
    recover: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Train it on --text for these steps then.")
    ] = 0,
    text: Annotated[
        Path | None,
        typer.Option(help="Text like the expert's, for --recover; a tenth is held out."),
    ] = None,
) -> None:
    """Store the newest version of an expert at another rank; its own rank restores it."""
    from fedmore.coordinator.mixture.repacking import repack

    done = repack(directory, expert, rank, recover, text)
    echo(
        f"{expert}: rank {rank_name(done.row.rank)}, {done.row.params:,} parameters of "
        f"{done.params:,}"
    )
    echo(f"  error {done.error:.2%} of the change (Frobenius norm)")
    if done.recovery:
        before, after = done.recovery.before, done.recovery.after
        kept = "kept" if after < before else "no gain, so it is not kept"
        echo(f"  recovery: {before:.3f} to {after:.3f} bits per byte of held-out text, {kept}")
    _tell_next(directory, done.row.metrics)


def _tell_next(directory: Path, metrics: Mapping[str, Any]) -> None:
    """What to do with a new version, or why the gate holds it."""
    if why := metrics.get("held_back"):
        echo(f"  held, {why}; `coordinator experts promote` decides otherwise")
    else:
        echo(f"`coordinator assemble {directory}` makes a mixture with it")
