"""The study `crowd`: what a hundred owners of one expert cost, with and without limits."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from rich.console import Console
from rich.table import Table

from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import num_parameters
from fedmore.sims.studies.crowd.owners import EXPERT, CrowdGrid, Owner, shapes_of
from fedmore.sims.studies.finished import kept, write
from fedmore.sims.studies.rounds.study import PLAIN
from fedmore.strategies.expert_stage.state import ExpertState
from fedmore.strategies.expert_stage.strategy import ExpertStrategy, RoundMetrics
from fedmore.strategies.stages.expert import ExpertStage

LIMITS: Mapping[str, Mapping[str, Any]] = {
    "none": {"max_rank": 1 << 20},
    "default": {},
    "broadcast 64": {"broadcast_rank": 64},
    "kept 128, broadcast 32": {"max_rank": 128, "broadcast_rank": 32},
    "energy 0.9, broadcast 32, sign1": {
        "max_rank": 128, "aggregate_energy": 0.9, "broadcast_rank": 32, "download_codec": "sign1",
    },
}  # fmt: skip
"""Settings of the stage that limit what is kept and sent."""


@dataclass(frozen=True)
class Size:
    """Owners, the rank of each, and the base's layers, width and inner width."""

    owners: int = 100
    rank: int = 16
    layers: int = 2
    width: int = 576
    inner: int = 1536
    rounds: int = 3


def run(
    *,
    out: Path,
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    engine: str = "local",
    settings: Sequence[str] = (),
    results_in: Path | None = None,
    console: Console,
) -> Path:
    """Run every limit and write `crowd.json`; `--set owners=10` and the like change the size."""
    if engine != "local":
        raise ConfigError(f"--engine {engine}: the study crowd runs in one process")
    size = size_of(settings, Size(12, 4, 1, 48, 64) if quick else Size())
    seed = (seeds or (0,))[0]
    where = "-".join(map(str, (seed, *vars(size).values())))
    rows = [
        kept(
            out / "done" / f"{where}-{name.replace(' ', '-').replace(',', '')}.json",
            partial(case, size, name, seed),
            console.print,
        )
        for name in LIMITS
    ]
    console.print(table(rows))
    found = {"seeds": [seed], "size": vars(size), "rows": rows}
    return write((results_in or out) / "crowd.json", found)


def size_of(settings: Sequence[str], size: Size) -> Size:
    """The size with settings like `owners=10`; raises `ConfigError` for any other."""
    changed = dict(vars(size))
    for text in settings:
        key, _, value = text.partition("=")
        if key not in changed or not value.isdigit() or not int(value):
            raise ConfigError(f"--set {text}: expected a number above 0 for {', '.join(changed)}")
        changed[key] = int(value)
    return Size(**changed)


def case(size: Size, name: str, seed: int) -> dict[str, Any]:
    """The figures of the last round under one limit."""
    owners = [Owner(f"o{k:04}", size.rank) for k in range(size.owners)]
    grid = CrowdGrid(owners, shapes_of(size.layers, size.width, size.inner))
    stage = ExpertStage(rounds=size.rounds, **{"steps": 6, **PLAIN, **LIMITS[name]})
    told: list[RoundMetrics] = []
    states: list[ExpertState] = []

    def on_round(_: int, metrics: RoundMetrics, after: Mapping[str, ExpertState]) -> None:
        told.append(metrics)
        states[:] = [after[EXPERT]]

    strategy = ExpertStrategy(stage, grid.shapes, seed, on_round)
    reset_peak()
    began = time.perf_counter()
    strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=size.rounds)
    seconds = (time.perf_counter() - began - grid.owners_s) / size.rounds
    return {
        "limits": name, **told[-1]["experts"][EXPERT], "owners": size.owners,
        "bytes_up_per_owner": owners[0].sent_bytes // size.rounds,
        "coordinator_s_per_round": round(seconds, 2), "peak_bytes": peak(),
        **mixture_cost(states[0], size),
    }  # fmt: skip


def mixture_cost(state: ExpertState, size: Size) -> dict[str, float]:
    """Numbers of the expert, and its work for a token beside that of the base's own matrices."""
    numbers = num_parameters(state.aggregate)
    base = 3 * size.layers * size.width * size.inner
    return {"expert_params": numbers, "work_beside_base": numbers / base}


def reset_peak() -> None:
    """Have Linux count the peak of this process's memory anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """The peak of this process's memory in bytes, since `reset_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The figures that the limits are about."""
    heads = (
        "limits", "rank of all", "kept", "error", "sent", "error", "MB an owner", "MB in all",
        "s a round", "GB", "work beside base",
    )  # fmt: skip
    found = Table(*heads, box=None)
    for row in rows:
        found.add_row(
            row["limits"], str(row["summed_rank"]), str(row["rank"]),
            f"{row['aggregation_error']:.1e}", str(row["broadcast_rank"]),
            f"{row['broadcast_error']:.1e}", f"{row['download_bytes_per_owner'] / 1e6:.2f}",
            f"{row['download_bytes'] / 1e6:.1f}", f"{row['coordinator_s_per_round']:.1f}",
            f"{row['peak_bytes'] / 1e9:.2f}", f"{row['work_beside_base']:.0%}",
        )  # fmt: skip
    return found
