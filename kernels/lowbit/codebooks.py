"""The constants to which a standard normal number is rounded.

The tables have the upper halves; the lower ones mirror them. Both codebooks are fixed points: cells
end halfway between codes, and every code is the median of its cell (`median`, from the paper) or
the mean of its cell (`squares`, from Lloyd). The tests check both with the normal distribution of
the standard library.
"""

import math
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

Book = Literal["median", "squares"]

BOOK: Book = "squares"
"""The default codebook; docs/how-it-works.md compares the results of both."""

NORMAL = NormalDist()

UPPER: dict[tuple[Book, int], tuple[float, ...]] = {
    ("median", 1): (0.67448975,),
    ("median", 2): (0.377754161, 1.265720325),
    ("median", 4): (
        *(0.105550285, 0.319036008, 0.540072077, 0.775192072),
        *(1.034006305, 1.333106708, 1.707737593, 2.265490638),
    ),
    ("squares", 1): (0.797884561,),
    ("squares", 2): (0.452780035, 1.510417608),
    ("squares", 4): (
        *(0.12839503, 0.388048299, 0.656759119, 0.942340456),
        *(1.256231197, 1.618046386, 2.069017227, 2.732589571),
    ),
}


def codes(bits: int, book: Book = BOOK) -> list[float]:
    """All ``2 ** bits`` codes, ascending; raises `ValueError` for an unknown codebook."""
    upper = UPPER.get((book, bits))
    if upper is None:
        raise ValueError(f"lowbit: no codebook {book!r} of {bits} bits; there are 1, 2 and 4")
    return [*(-code for code in reversed(upper)), *upper]


def borders(bits: int, book: Book = BOOK) -> list[float]:
    """The borders between cells, halfway between codes; ascending."""
    return [(low + high) / 2 for low, high in pairwise(codes(bits, book))]


def spread(bits: int, book: Book = BOOK) -> float:
    """Standard deviation of a standard normal number after rounding to the codebook."""
    ends = [-math.inf, *borders(bits, book), math.inf]
    masses = (NORMAL.cdf(high) - NORMAL.cdf(low) for low, high in pairwise(ends))
    pairs = zip(masses, codes(bits, book), strict=True)
    return math.sqrt(sum(mass * code**2 for mass, code in pairs))
