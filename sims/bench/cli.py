"""`fedmore bench`; it imports nothing heavy, so that `--help` answers at once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Measure kernels and engine; results are verified before they are timed.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")]
Out = Annotated[
    Path | None, typer.Option(help="Also write a JSON file: machine, versions and results.")
]


class Op(StrEnum):
    """Ops of `fedmore.kernels`."""

    lora_mix = "lora_mix"
    lowbit = "lowbit"
    lowrank_sum = "lowrank_sum"
    moe_ffn = "moe_ffn"
    sign1 = "sign1"


class Device(StrEnum):
    """The device that the ops run on."""

    cpu = "cpu"
    cuda = "cuda"


@app.command("kernels")
def bench_kernels(
    json: Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use small sizes and few repeats; takes under a minute.")
    ] = False,
    only: Annotated[
        list[Op] | None, typer.Option(help="Measure only this op; repeat for more. By default all.")
    ] = None,
    device: Annotated[
        Device,
        typer.Option(help="Run on a CPU, or on an NVIDIA GPU and compare with its peaks."),
    ] = Device.cpu,
    out: Out = None,
) -> None:
    """Compare every op with the obvious way; exit code 1 if one differs from its specification."""
    from fedmore.sims.bench.kernels import rows
    from fedmore.sims.bench.table import publish

    found = rows([op.value for op in only or Op], quick=quick, device=device.value)
    publish(found, "fedmore bench kernels", as_json=json, out=out)
    if not all(row["verified"] for row in found):
        raise typer.Exit(1)


class Part(StrEnum):
    """Parts of `fedmore bench engine`."""

    clients = "clients"
    large = "large"
    latency = "latency"
    overhead = "overhead"
    restart = "restart"
    throughput = "throughput"


@app.command("engine")
def bench_engine(
    json: Json = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Use small sizes, few rounds and clients; takes two minutes."),
    ] = False,
    only: Annotated[
        list[Part] | None,
        typer.Option(help="Measure only this part; repeat for more. By default all."),
    ] = None,
    out: Out = None,
) -> None:
    """Compare the transport with Flower's and plain TCP; measure bytes, memory and restart."""
    from fedmore.sims.bench.engine import measure
    from fedmore.sims.bench.table import publish

    found = [row for part in only or Part for row in measure(part.value, quick=quick)]
    publish(found, "fedmore bench engine", as_json=json, out=out)
