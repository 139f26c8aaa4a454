"""The study `round-start`: where a round begins, and the server's momentum.

Four owners of one expert, and one owner alone, whose aggregate is its own component.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedmore.sims.studies.rounds.goals import goals_of, with_shares
from fedmore.sims.studies.rounds.study import Row, Study
from fedmore.sims.studies.rounds.variants import POOLED, Variant, run_variant
from fedmore.sims.studies.rounds.world import World

PLAIN, NESTEROV = (0.0, 1.0), (0.5, 0.7)
EQUAL, MIXED, ALONE = (16, 16, 16, 16), (4, 8, 16, 64), (16,)
RATES = {"tiny": (5e-3, 1e-2, 2e-2), "smollm2": (2e-3, 4e-3)}
PLANS = {"tiny": ((20, (6, 20)), (3, (3,))), "smollm2": ((6, (6,)), (3, (3,)))}
"""The rounds of a plan, and those after which a row is made."""

STARTS = (("own", PLAIN), ("aggregate", NESTEROV))
COMPARED = (  # start, step of the server, codec, ranks
    (POOLED, PLAIN, "fp32", EQUAL),
    *(
        (start, step, codec, ranks)
        for ranks in (EQUAL, MIXED)
        for codec in ("fp32", "sign1")
        for start, step in STARTS
    ),
    ("own", NESTEROV, "fp32", EQUAL),
    ("aggregate", PLAIN, "fp32", EQUAL),
    *((start, step, codec, ALONE) for codec in ("fp32", "sign1") for start, step in STARTS),
)
FEW = tuple((start, step, "fp32", EQUAL) for start, step in STARTS)


def variants(world: World, _seed: int, quick: bool) -> Iterator[Variant]:
    """Every setting compared, each at the same rates; on SmolLM2 the two starts alone."""
    tiny, plans = world.name == "tiny", PLANS[world.name]
    for start, (momentum, rate), codec, ranks in COMPARED if tiny and not quick else FEW:
        for split in ("like", "unlike") if tiny and ranks != ALONE else ("unlike",):
            for rounds, scored in plans[1:] if quick else plans:
                for lr in RATES[world.name]:
                    some = ranks[: len(world.texts)]
                    yield Variant(start, momentum, rate, codec, some, split, lr, rounds, scored)


def finished(rows: Sequence[Row]) -> tuple[Sequence[Row], Mapping[str, Any]]:
    """The rows with their share of the pooled gain, and what became of the goals."""
    shared = with_shares(rows)
    return shared, goals_of(shared)


STUDY = Study("round-start", "rows", {"steps": 6}, variants, run_variant, finished)
