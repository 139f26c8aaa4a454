"""`client`: take part in a federation. Imports nothing heavy, so that `--help` answers at once."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from fedmore.client.cli import plans
from fedmore.client.cli.plans import Yes, say
from fedmore.protos.system.files import at_home, local_name
from fedmore.protos.system.terminal import console, echo

app = typer.Typer(
    help="Take part in a federation with text that stays on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.command()(plans.plan)
app.command()(plans.accept)

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
        Path | None,
        typer.Option(
            help="Your text: a file or folder of txt, md, json(l), csv, tsv, parquet.",
            callback=at_home,
        ),
    ] = None,
    column: Annotated[
        str, typer.Option(help="The column or key of a table that holds the text.")
    ] = "text",
    encoding: Annotated[
        str, typer.Option(help="How files without a byte order mark are written; else UTF-8.")
    ] = "",
    domain: Annotated[str | None, typer.Option(help="Train an expert for this domain.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Train an adapter for this language.")
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="RANK",
            help="Rank of the change: 16, or gate=8,up=8,down=32, or 0-9:4,10-29:16, or full; "
            "auto tries ranks on your own text; by default 16 for a domain, 8 for a language.",
        ),
    ] = None,
    rank_steps: Annotated[
        int, typer.Option(min=4, help="Steps for which --rank auto trains each rank.")
    ] = 32,
    optimizer: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="adamw, or adamw8bit: moments of 8 bits, a quarter of their memory.",
        ),
    ] = "adamw",
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Compute activations twice instead of keeping them; the result is the same.",
        ),
    ] = False,
    gpu: Gpu = None,
    cpu: Cpu = False,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for key and state; by default the user's.", callback=at_home),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="This machine's copy of the base, where it lies elsewhere here."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
    patience: Annotated[
        float, typer.Option(help="Seconds to go on trying when the coordinator is away.")
    ] = 300.0,
    codec: Annotated[
        list[str] | None,
        typer.Option(help="Let updates out in this layout only; may be given again for more."),
    ] = None,
    min_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Let nothing out that is made of fewer tokens; by default 1024."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Your bounds, floors and standing consent: a TOML file."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="The plan that you agree to, from `client plan`.")
    ] = None,
    yes: Yes = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="For an invite without TLS, on this machine only.")
    ] = False,
    address: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the coordinator is now, if not where the invite says; remembered.",
        ),
    ] = "",
    client_app: Annotated[
        str,
        typer.Option("--app", metavar="MODULE:OBJECT", help="A Flower ClientApp to run instead."),
    ] = "",
    node_config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="For the Flower app; repeat for more."),
    ] = None,
) -> None:
    """Join with an invite and train until the federation is finished; run again to resume."""
    if client_app:
        refuse_beside_app(data, domain, language, rank, base, codec, policy, plan)
        join_app(invite, client_app, node_config or [], state, patience, insecure, address)
        return
    from fedmore.client.joining.join import join as join_federation
    from fedmore.client.joining.options import JoinOptions, text_of, training
    from fedmore.client.owner.memory_saving import MemorySaving
    from fedmore.experts.reading.documents import Format

    kind, target = training(domain, language)
    options = JoinOptions(
        invite=invite,
        data=text_of(data),
        kind=kind,
        target=target,
        rank=rank,
        rank_steps=rank_steps,
        saving=MemorySaving(optimizer, gradient_checkpointing),
        gpu=gpu,
        cpu=cpu,
        state=state,
        base=base and local_name(base),
        threads=threads,
        patience_s=patience,
        codecs=tuple(codec or ()),
        min_tokens=min_tokens,
        policy=policy,
        plan=plan,
        yes=yes,
        insecure=insecure,
        address=address,
        form=Format(encoding, column),
    )
    join_federation(options, say)


@app.command()
def audit(
    where: Annotated[
        Path,
        typer.Argument(metavar="STATE|INVITE", help="The client's state folder, or its invite."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List everything that has left this machine, and check that the record is whole."""
    from fedmore.client.egress import audit_report as ledgers

    ledger = ledgers.read_ledger(ledgers.state_of(where))
    if as_json:
        echo(json.dumps(ledger.as_json(), indent=2))
    else:
        shown = console()
        shown.print(ledgers.view(ledger), soft_wrap=not shown.is_terminal)


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
    from fedmore.client.hardware import preflight as preflights

    found = preflights.preflight(base and local_name(base), gpu=gpu, cpu=cpu, dtype=dtype)
    if as_json:
        echo(json.dumps(preflights.as_json(found), indent=2))
    else:
        console().print(preflights.view(found))


@app.command()
def withdraw(
    place: Annotated[
        Path, typer.Argument(metavar="INVITE|STATE", help="The invite, or the client's folder.")
    ],
    reason: Annotated[str, typer.Option(help="Why; the operator reads it.")] = "",
    invite: Annotated[
        Path | None, typer.Option(help="The invite, where the client's folder is given.")
    ] = None,
) -> None:
    """Take back what this client contributed, for good; the next aggregate is without it."""
    from fedmore.client.withdraw import withdraw as take_back

    take_back(place, reason, say, invite)


def refuse_beside_app(*options: object) -> None:
    """Raise `ConfigError` if an option of our own training is given."""
    from fedmore.experts.errors import ConfigError

    if any(option is not None for option in options):
        raise ConfigError(
            "--app runs a Flower app instead of our training, so there is no place for --data, "
            "--domain, --language, --rank, --base, --codec, --policy and --plan; --node-config is "
            "what the app is told"
        )


def join_app(
    invite: Path,
    app: str,
    pairs: list[str],
    state: Path | None,
    patience: float,
    insecure: bool,
    address: str,
) -> None:
    """Join with a Flower app."""
    from fedmore.client.external_app import AppOptions
    from fedmore.client.external_app import join as join_with_app
    from fedmore.protos.runtime.flower_apps import values

    config = values(pairs, "--node-config")
    join_with_app(AppOptions(invite, app, config, state, patience, insecure, address), say)


def main() -> None:
    """Entry point of the console script."""
    from fedmore.protos.runtime.exits import run
    from fedmore.protos.system.files import UMASK

    os.umask(UMASK)
    run(app)


if __name__ == "__main__":
    main()
