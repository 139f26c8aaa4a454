"""The study `round-start`: where a round begins, and the server's momentum."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedmore.sims.studies.rounds.goals import goals_of, with_shares
from fedmore.sims.studies.rounds.study import Row, Study
from fedmore.sims.studies.rounds.variants import POOLED, Variant, run_variant
from fedmore.sims.studies.rounds.world import World

PLAIN, NESTEROV = (0.0, 1.0), (0.5, 0.7)
EQUAL, MIXED = (16, 16, 16, 16), (4, 8, 16, 64)
RATES = {"tiny": (5e-3, 1e-2), "smollm2": (2e-3, 4e-3)}

COMPARED = (  # start, step of the server, codec, ranks
    (POOLED, PLAIN, "fp32", EQUAL),
    *(
        (start, step, codec, ranks)
        for codec in ("fp32", "sign1")
        for ranks in (EQUAL, MIXED)
        for start, step in (("own", PLAIN), ("aggregate", NESTEROV))
    ),
)


def variants(world: World, _seed: int, quick: bool) -> Iterator[Variant]:
    """Every setting compared, each at the same rates, in plans of 20 rounds and of 3.

    On SmolLM2 the starts alone are compared, in three rounds.
    """
    tiny = world.name == "tiny"
    settings = COMPARED if tiny and not quick else COMPARED[0 if tiny else 1 : 3]
    lengths: Sequence[tuple[int, tuple[int, ...]]] = ((20, (6, 20)), (3, (3,)))
    for start, (momentum, rate), codec, ranks in settings:
        for split in ("like", "unlike") if tiny else ("unlike",):
            for rounds, scored in lengths if tiny and not quick else lengths[1:]:
                for lr in RATES[world.name]:
                    some = ranks[: len(world.texts)]
                    yield Variant(start, momentum, rate, codec, some, split, lr, rounds, scored)


def finished(rows: Sequence[Row]) -> tuple[Sequence[Row], Mapping[str, Any]]:
    """The rows with their share of the pooled gain, and what became of the goals."""
    shared = with_shares(rows)
    return shared, goals_of(shared)


STUDY = Study("round-start", "rows", {"steps": 6}, variants, run_variant, finished)
