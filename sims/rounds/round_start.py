"""The studies `round-start` and `rank-scaling`: where a round begins, and how ranks are scaled."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmore.experts.factors import Factors
from fedmore.sims.rounds import report
from fedmore.sims.rounds.federation import Federation, Owner
from fedmore.sims.rounds.world import World
from fedmore.strategies.plan import Stage

MIXED = (4, 8, 16, 64)
EQUAL = (16, 16, 16, 16)


@dataclass(frozen=True)
class Variant:
    """One row's settings; `start` is "pooled" where one owner has all of the text."""

    start: str
    momentum: float
    rate: float
    codec: str
    ranks: tuple[int, ...]
    split: str
    lr: float
    rounds: int
    scaling: str = "constant"


def starts(world: World, *, quick: bool) -> Iterator[Variant]:
    """Pooled, own and aggregate, each over the same rates, momenta, codecs, ranks and splits."""
    rates = (5e-3,) if quick else (2e-3, 5e-3, 1e-2)
    steps = ((0.0, 1.0), (0.5, 0.7)) if quick else ((0.0, 1.0), (0.5, 0.7), (0.5, 0.5), (0.8, 0.5))
    counts = (3,) if quick else (3, 6, 20)
    for split in ("like", "unlike") if len(world.texts) > 1 else ("like",):
        for rounds in counts:
            for lr in rates:
                yield Variant("pooled", 0.0, 1.0, "fp32", (16,), split, lr, rounds)
                for ranks in (EQUAL,) if quick else (EQUAL, MIXED):
                    for codec in ("fp32",) if quick else ("fp32", "sign1"):
                        for start in ("own", "aggregate"):
                            for momentum, rate in steps:
                                yield Variant(
                                    start, momentum, rate, codec, ranks, split, lr, rounds
                                )


def scalings(_world: World, *, quick: bool) -> Iterator[Variant]:
    """One owner of every rank from 2 to 128 by three rates, with both scales."""
    for rank in (2, 16, 64) if quick else (2, 4, 8, 16, 32, 64, 128):
        for lr in (5e-3,) if quick else (2e-3, 5e-3, 1e-2):
            for scaling in ("constant", "rslora"):
                yield Variant("own", 0.0, 1.0, "fp32", (rank,), "like", lr, 3, scaling)


def owners_of(world: World, variant: Variant) -> list[Owner]:
    """Four owners of one text, or of texts that differ; one with all of it where it is pooled."""
    names = list(world.texts)[:4]
    if variant.start == "pooled":
        return [Owner("pooled", 16, names[0])]
    split = [names[0]] * 4 if variant.split == "like" else names
    ranks = variant.ranks
    return [
        Owner(f"o{k}", rank, split[k % len(split)], k, len(ranks) if variant.split == "like" else 1)
        for k, rank in enumerate(ranks)
    ]


def run_variant(world: World, variant: Variant, seed: int, stage: Stage) -> dict[str, Any]:
    """One row: bits per byte of the texts trained on."""
    pooled = variant.start == "pooled"
    changed: dict[str, Any] = {
        "round_start": "own" if pooled else variant.start,
        "server_momentum": variant.momentum,
        "server_learning_rate": variant.rate,
        "codec": variant.codec,
        "learning_rate": variant.lr,
        "rounds": variant.rounds,
        "rank_scaling": variant.scaling,
    }
    made = replace(stage, **changed)
    names = list(world.texts)[:1] if variant.split == "like" else list(world.texts)[:4]
    if pooled and variant.split == "unlike":
        world = replace(world, texts={**world.texts, names[0]: _together(world, names)})
    owners = owners_of(world, variant)
    federation = Federation(world, made, seed)
    if pooled:
        federation.stage = replace(made, steps=made.steps * 4)
    for _ in range(variant.rounds):
        federation.round(owners)
    found: Factors | None = federation.state.aggregate if federation.state.rank else None
    scored = names[:1] if pooled and variant.split == "unlike" else names
    return {
        **asdict(variant), "model": world.name, "seed": seed,
        "base_bpb": world.score(None, scored), "mean_bpb": world.score(found, scored),
        "ci95": list(world.interval(found, scored) or ()) or None,
    }  # fmt: skip


def _together(world: World, names: Sequence[str]) -> tuple[list[str], list[str]]:
    train, heldout = ([], [])
    for name in names:
        train += world.texts[name][0]
        heldout += world.texts[name][1]
    return train, heldout


def with_shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the share of pooled training's gain that each has, of its best rate."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["model"], row["seed"], row["split"], row["rounds"]

    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if row["start"] == "pooled":
            best[key(row)] = min(row["mean_bpb"], best.get(key(row), row["mean_bpb"]))
    shares = [
        (row["base_bpb"] - row["mean_bpb"]) / (row["base_bpb"] - best[key(row)])
        if key(row) in best and row["base_bpb"] > best[key(row)]
        else None
        for row in rows
    ]
    return [{**row, "pooled_gain_share": share} for row, share in zip(rows, shares, strict=True)]


def run(
    *,
    out: Path,
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    engine: str = "local",  # noqa: ARG001 - all in this process
    settings: Sequence[str] = (),
    results_in: Path | None = None,
    console: Console,
    name: str = "round-start",
) -> Path:
    """Run what is not there yet and write the study's JSON; returns its path."""
    rows, variants = [], starts if name == "round-start" else scalings
    for world, seed in report.worlds(out, seeds, quick=quick):
        stage = report.stage(settings, steps=3 if quick else 6)
        for variant in variants(world, quick=quick):
            label = f"{world.name}-{seed}-" + "-".join(map(str, asdict(variant).values()))

            def make(world: World = world, variant: Variant = variant, seed: int = seed) -> Any:
                return run_variant(world, variant, seed, stage)  # noqa: B023 - the same for all

            rows.append(report.kept(out, label, make, console))
    return report.write(results_in or out, name, with_shares(rows), "rows")
