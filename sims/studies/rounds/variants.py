"""One row of `round-start` or `rank-scaling`: four owners of one expert, or one with all text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedmore.sims.studies.rounds.federation import Federation, Owner
from fedmore.sims.studies.rounds.study import Row
from fedmore.sims.studies.rounds.world import World
from fedmore.strategies.stages.expert import ExpertStage

POOLED = "pooled"


@dataclass(frozen=True)
class Variant:
    """The settings of one run; `start` is "pooled" if one owner has all of the text.

    `rounds` are those of the plan, over which the rate decays; `scored` are the rounds after which
    a row is made. `rate` is the server's and `lr` the owners'.
    """

    start: str
    momentum: float
    rate: float
    codec: str
    ranks: tuple[int, ...]
    split: str
    lr: float
    rounds: int
    scored: tuple[int, ...]
    scaling: str = "constant"

    @property
    def name(self) -> str:
        """All settings, one after the other."""
        ranks, scored = ("+".join(map(str, each)) for each in (self.ranks, self.scored))
        said = {**asdict(self), "ranks": ranks, "scored": scored}
        return "-".join(map(str, said.values()))


def owners_of(world: World, variant: Variant) -> list[Owner]:
    """An owner of every rank, of one text in parts or of texts that differ."""
    names, ranks = list(world.texts), variant.ranks
    parts = len(ranks) if variant.split == "like" else 1
    return [
        Owner(f"o{k}", rank, names[0 if variant.split == "like" else k], k % parts, parts)
        for k, rank in enumerate(ranks)
    ]


def run_variant(world: World, variant: Variant, seed: int, stage: ExpertStage) -> list[Row]:
    """The rows of one run: bits per byte of the texts trained on, after the rounds scored.

    Pooled training takes as many steps, each over the windows of all owners together.
    """
    pooled = variant.start == POOLED
    changed: dict[str, Any] = {
        "round_start": "own" if pooled else variant.start,
        "server_momentum": variant.momentum,
        "server_learning_rate": variant.rate,
        "codec": variant.codec,
        "learning_rate": variant.lr,
        "rounds": variant.rounds,
        "rank_scaling": variant.scaling,
    }
    owners = owners_of(world, variant)
    names = sorted({owner.text for owner in owners})
    if pooled:
        world, owners = (
            _together(world, names, len(owners)),
            [Owner(POOLED, owners[0].rank, POOLED)],
        )
    federation, rows = Federation(world, replace(stage, **changed), seed), list[Row]()
    base = world.base_score(names)
    for number in range(1, variant.rounds + 1):
        federation.round(owners)
        if number in variant.scored:
            found, ci95 = world.scored_with_interval(federation.state.aggregate, names)
            after = {"model": world.name, "seed": seed, "after": number, "base_bpb": base}
            rows.append(
                {**_said(variant), **after, "mean_bpb": found, "ci95": list(ci95 or ()) or None}
            )
    return rows


def _said(variant: Variant) -> Mapping[str, Any]:
    return {key: value for key, value in asdict(variant).items() if key != "scored"}


def _together(world: World, names: Sequence[str], count: int) -> World:
    train = [text for name in names for text in world.texts[name][0]]
    return replace(world, texts={**world.texts, POOLED: (train, [])}, batch=world.batch * count)
