"""`client`: take part in a federation. Imports nothing heavy, so that `--help` answers at once."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Take part in a federation with text that stays on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Gpu = Annotated[int | None, typer.Option(min=0, help="Train on this CUDA device.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU, whatever else there is.")]


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or FEDMORE_DEBUG=1).")
    ] = False,
) -> None:
    """Take part in a federation with text that stays on this machine."""
    if debug:
        os.environ["FEDMORE_DEBUG"] = "1"


@app.command()
def join(
    invite: Annotated[
        Path, typer.Argument(metavar="INVITE", help="The invite that the operator sent.")
    ],
    data: Annotated[
        Path, typer.Option(help="Your text: a file or folder of txt, md, jsonl, csv, parquet.")
    ],
    domain: Annotated[str | None, typer.Option(help="Train an expert for this domain.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Train an adapter for this language.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rank of the change; by default 16 for a domain, 8 for a language."
        ),
    ] = None,
    gpu: Gpu = None,
    cpu: Cpu = False,
    state: Annotated[
        Path | None, typer.Option(help="Folder for credential and state; by default the user's.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="This machine's copy of the base, where it lies elsewhere here."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
    patience: Annotated[
        float, typer.Option(help="Seconds to go on trying when the coordinator is away.")
    ] = 300.0,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow an invite without a certificate (no TLS).")
    ] = False,
) -> None:
    """Join with an invite and train until the federation is finished; run again to resume."""
    from fedmore.client.join import JoinOptions, training
    from fedmore.client.join import join as join_federation

    kind, target = training(domain, language)
    options = JoinOptions(
        invite=invite,
        data=data,
        kind=kind,
        target=target,
        rank=rank,
        gpu=gpu,
        cpu=cpu,
        state=state,
        base=base,
        threads=threads,
        patience_s=patience,
        insecure=insecure,
    )
    join_federation(options, say)


@app.command()
def preflight(
    base: Annotated[
        str | None, typer.Option(help="The base: a folder, or a name on the hub.")
    ] = None,
    gpu: Gpu = None,
    cpu: Cpu = False,
    dtype: Annotated[str, typer.Option(help="Train in: auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say what this machine can do: device, memory, the highest rank that fits."""
    from rich.console import Console

    from fedmore.client import preflight as preflights

    found = preflights.preflight(base, gpu=gpu, cpu=cpu, dtype=dtype)
    if as_json:
        typer.echo(json.dumps(preflights.as_json(found), indent=2))
    else:
        Console().print(preflights.view(found))


def say(text: str) -> None:
    """Print a line, at once: somebody may be reading a pipe."""
    typer.echo(text)


def main() -> None:
    """Entry point of the console script."""
    from fedmore.protos.exits import run

    run(app)


if __name__ == "__main__":
    main()
