"""Finds what one text repeats of another, by runs of n words."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fedmore.sims.data.items import Item, words

PASSAGE = 13
"""Length of a run, in words, that two texts do not share by chance."""

PHRASE = 8
"""Length of a run, in words, that a common phrase of the field may have."""

HEAD = 600
"""Length of a document's head, in characters, in which it is scored."""

ALIKE = 0.5
"""Share of the smaller text's passages above which two texts are versions of one."""

_COMPARED = 8
"""Number of earlier texts with a passage in common with which a text is compared; the newest."""


def grams(text: str, length: int) -> set[int]:
    """Hashes of all runs of `length` words; a shorter text is one run.

    The hashes are comparable only within one process.
    """
    parts = words(text)
    runs = range(max(1, len(parts) - length + 1)) if parts else range(0)
    return {hash(tuple(parts[i : i + length])) for i in runs}


def all_grams(texts: Iterable[str], length: int) -> set[int]:
    """The union of all texts' runs."""
    found: set[int] = set()
    for text in texts:
        found |= grams(text, length)
    return found


def overlap(text: str, seen: Collection[int], length: int) -> float:
    """The share of a text's runs of `length` words that are in `seen`; 0 for an empty text."""
    own = grams(text, length)
    return sum(run in seen for run in own) / len(own) if own else 0.0


def families(items: Sequence[Item]) -> dict[str, str]:
    """The family of every group: groups with versions of one text belong together, transitively.

    A family has the name of its first group.
    """
    names = sorted({item.group for item in items})
    number = {name: n for n, name in enumerate(names)}
    pairs = [(number[items[i].group], number[items[j].group]) for i, j in _versions(items)]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    shape = (len(names), len(names))
    edges = coo_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    labels = connected_components(edges, directed=False)[1].tolist() if names else []
    first: dict[int, str] = {}
    for name, label in zip(names, labels, strict=True):
        first.setdefault(label, name)
    return {name: first[label] for name, label in zip(names, labels, strict=True)}


def _versions(items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    """Yield pairs of texts whose smaller one shares half of its passages with the other."""
    having: dict[int, tuple[int, ...]] = {}
    sizes: list[int] = []
    for index, item in enumerate(items):
        own = grams(item.text, PASSAGE)
        sizes.append(len(own))
        shared = Counter(other for run in own for other in having.get(run, ()))
        for other, count in shared.items():
            if count >= ALIKE * min(len(own), sizes[other]):
                yield index, other
        for run in own:
            having[run] = (*having.get(run, ()), index)[-_COMPARED:]


@dataclass(frozen=True)
class Shares:
    """How much of some documents occurs in others.

    `repeating` is the share of documents with a passage of the others. `phrases` and `most` are the
    mean and the highest share of a document's runs of 8 words. The last three figures are for
    heads.
    """

    documents: int
    repeating: float
    phrases: float
    most: float
    head_repeating: float
    head_phrases: float
    head_most: float


def shares(documents: Sequence[str], others: Iterable[str]) -> Shares:
    """Measure what `documents` share with `others`, for whole documents and for heads."""
    others = list(others)
    passages, phrases = all_grams(others, PASSAGE), all_grams(others, PHRASE)
    found: list[float] = []
    for part in (documents, [text[:HEAD] for text in documents]):
        same = [overlap(text, phrases, PHRASE) for text in part]
        repeating = [not passages.isdisjoint(grams(text, PASSAGE)) for text in part]
        found += [float(np.mean(repeating)), float(np.mean(same)), max(same)] if part else [0.0] * 3
    return Shares(len(documents), *found)
