"""Nested ranks: one training whose every prefix works by itself (DyLoRA, arXiv 2210.07558).

Each step draws a rank r' and trains only the first r' directions of every matrix, or all of a
matrix that has fewer. What is drawn follows from the seed and the step alone, so a training that
goes on from a checkpoint draws the same. A prefix has the s of the whole change,
``s B[:, :r'] A[:r']``: a stored change is cut by leaving directions out, and nothing is to be
scaled anew.
"""

from collections.abc import Mapping

from fedmore.experts.factors import seed_of
from fedmore.experts.low_rank_linear import LowRankLinear


def prefixes(rank: int) -> tuple[int, ...]:
    """The ranks that are drawn: the powers of two below `rank`, and `rank` itself."""
    return (*(1 << power for power in range((rank - 1).bit_length())), rank)


def prefix_of(seed: int, step: int, rank: int) -> int:
    """The rank that a step trains, each of `prefixes` equally often."""
    found = prefixes(rank)
    return found[seed_of("prefix", seed, step) % len(found)]


def use_prefix(layers: Mapping[str, LowRankLinear], rank: int) -> None:
    """Use the first `rank` directions of every layer in the passes that follow."""
    for layer in layers.values():
        layer.prefix = rank
