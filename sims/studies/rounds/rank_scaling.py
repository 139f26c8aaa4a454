"""The study `rank-scaling`: how the product of an owner's factors is scaled by its rank."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from fedmore.sims.studies.rounds.study import Row, Study
from fedmore.sims.studies.rounds.variants import Variant, run_variant
from fedmore.sims.studies.rounds.world import World

RANKS = {"tiny": (2, 4, 8, 16, 32, 64), "smollm2": (4, 64)}
RATES = {"tiny": (2e-3, 5e-3, 1e-2), "smollm2": (2e-3, 4e-3)}
SAME = 8  # the rank at which both scales are alike


def scalings(world: World, _seed: int, quick: bool) -> Iterator[Variant]:
    """One owner of every rank by the rates, with both scales; the tiny base is 64 wide."""
    for rank in (2, 16) if quick else RANKS[world.name]:
        for lr in RATES[world.name]:
            for scaling in ("constant", "rslora")[: 1 if rank == SAME else 2]:
                yield Variant(
                    "own", 0.0, 1.0, "fp32", (rank,), "like", lr, 3, (3,), scaling
                )  # fmt: skip


def finished(rows: Sequence[Row]) -> tuple[Sequence[Row], Mapping[str, Any]]:
    """The rows, and the mean over seeds and ranks of each scale: best rate of all, and each rank's.

    Ranks at which both scales are alike count for both.
    """
    means = dict[str, Any]()
    for model in sorted({row["model"] for row in rows}):
        found = [row for row in rows if row["model"] == model]
        means[model] = {
            scaling: _means([row for row in found if row["scaling"] == scaling or _same(row)])
            for scaling in ("constant", "rslora")
        }
    return rows, means


def _same(row: Row) -> bool:
    return list(row["ranks"]) == [SAME]


def _means(rows: Sequence[Row]) -> dict[str, float]:
    """Bits per byte with one rate for all ranks, by rate, and with the best rate of every rank."""
    rates = sorted({row["lr"] for row in rows})
    ranks = sorted({row["ranks"][0] for row in rows})
    one = {
        f"lr {lr}": mean(row["mean_bpb"] for row in rows if row["lr"] == lr) for lr in rates
    }  # fmt: skip
    best = [
        min(
            mean(r["mean_bpb"] for r in rows if r["ranks"][0] == rank and r["lr"] == lr)
            for lr in rates
        )
        for rank in ranks
    ]
    return {**one, "best rate of each rank": mean(best)}


STUDY = Study("rank-scaling", "rows", {"steps": 6}, scalings, run_variant, finished)
