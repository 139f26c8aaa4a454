"""The study `nested-ranks`: one training whose every prefix works, beside other ways to a rank.

One owner trains an expert of rank 16 with nested ranks, and its prefixes are scored. Beside it
stand plain training of rank 16, cut to the same ranks by SVD, and direct training of each rank. All
take the same steps on the same windows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fedmore.client.training.expert import Schedule, train
from fedmore.experts import factors as low_rank
from fedmore.experts.conversion.change import cut
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import combine
from fedmore.experts.scoring.bits_per_byte import Score, difference, summary
from fedmore.experts.scoring.intervals import ratio_interval
from fedmore.experts.spec import ExpertSpec
from fedmore.sims.studies.rounds.study import Row, Study
from fedmore.sims.studies.rounds.world import World
from fedmore.strategies.stages.expert import ExpertStage

RANKS = (1, 2, 4, 8, 16)
TEXTS = ("legal", "medical", "code")
WAYS = ("nested", "svd", "direct")


@dataclass(frozen=True)
class Owner:
    """The one owner of a text."""

    text: str

    @property
    def name(self) -> str:
        """What the case is kept under."""
        return self.text


def owners(world: World, _seed: int, quick: bool) -> Iterator[Owner]:
    """An owner of every text of the world that the study is about; one for a quick run."""
    known = [text for text in TEXTS if text in world.texts] or list(world.texts)
    yield from map(Owner, known[:1] if quick else known)


def rows_of(world: World, owner: Owner, seed: int, stage: ExpertStage) -> list[Row]:
    """Bits per byte of every way and rank on the owner's held-out documents."""
    plain = trained(world, owner.text, RANKS[-1], seed, stage)
    nested = trained(world, owner.text, RANKS[-1], seed, stage, nested=True)
    found: dict[tuple[str, int], list[Score]] = {}
    for rank in RANKS:
        direct = plain if rank == RANKS[-1] else trained(world, owner.text, rank, seed, stage)
        changes = {
            "nested": cut(nested, rank, nested=True)[0],
            "svd": cut(plain, rank)[0],
            "direct": direct,
        }
        for way, change in changes.items():
            found[way, rank] = world.scores(change, [owner.text])
    base = summary(world.scores(None, [owner.text]))
    who = {"model": world.name, "seed": seed, "text": owner.text, "base_bpb": base["mean"]}
    return [
        {**who, "way": way, "rank": rank, "bpb": summary(scores)["mean"],
         "ci95": summary(scores)["ci95"],
         "nested_less_this": difference(found["nested", rank], scores)}
        for (way, rank), scores in found.items()
    ]  # fmt: skip


def trained(
    world: World, text: str, rank: int, seed: int, stage: ExpertStage, *, nested: bool = False
) -> Factors:
    """The change that an owner of this rank makes in one round, with its s in B."""
    spec = ExpertSpec("study/one", "expert", "study", rank, scaling=stage.rank_scaling)
    sites = spec.sites(world.shapes)
    scale, start = spec.scales(sites), low_rank.initial(spec, sites, seed)
    windows = world.windows(world.texts[text][0], stage.steps, seed)
    schedule = Schedule(stage.steps, world.batch, stage.rate_of(rank), 1, 1)
    done = train(
        world.base.model, sites, start, None, scale, windows, schedule, lambda *_: None,
        seed=seed, nested=nested,
    )  # fmt: skip
    return combine([(done.factors, scale)])


def finished(rows: Sequence[Row]) -> tuple[Sequence[Row], Mapping[str, Any]]:
    """The rows, and over seeds and texts each way's mean, and nested's difference to it.

    The intervals are of Student's t over the pairs of seed and text.
    """
    means = {
        way: {
            str(rank): _mean([row for row in rows if (row["way"], row["rank"]) == (way, rank)])
            for rank in RANKS
        }
        for way in WAYS
    }
    return rows, means


def _mean(rows: Sequence[Row]) -> dict[str, Any]:
    gaps = [row["nested_less_this"]["mean"] for row in rows]
    found = ratio_interval(gaps, [1.0] * len(gaps))
    return {
        "mean_bpb": mean(row["bpb"] for row in rows),
        "nested_less_this": mean(gaps),
        "ci95": found and list(found),
    }


STUDY = Study(
    "nested-ranks", "rows", {"steps": 120, "learning_rate": 5e-3}, owners, rows_of, finished
)
