"""Train and held-out sides that share nothing: split by source first, then drop what repeats."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable

from fedmore.sims.data.items import Item, words

FRACTION = 0.15
LARGEST = 0.05
SHINGLE = 8


def group_sizes(items: Iterable[Item]) -> Counter[str]:
    """Characters of each group."""
    sizes: Counter[str] = Counter()
    for item in items:
        sizes[item.group] += len(item.text)
    return sizes


def held_out_groups(sizes: Counter[str], fraction: float = FRACTION) -> frozenset[str]:
    """Groups that hold about `fraction` of the characters, in an order fixed by their names.

    A group larger than 5 % of the text stays in train, so that held-out text is varied.
    """
    total = sum(sizes.values())
    chosen: set[str] = set()
    taken = 0
    for group in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if taken >= fraction * total:
            break
        if sizes[group] <= LARGEST * total:
            chosen.add(group)
            taken += sizes[group]
    return frozenset(chosen)


def split(items: Iterable[Item], held_out: Collection[str]) -> tuple[list[Item], list[Item]]:
    """Train and held-out items; held-out ones that train (nearly) contains are dropped."""
    kept = list(without_repeats(items))
    train = [item for item in kept if item.group not in held_out]
    seen: set[int] = set()
    for item in train:
        seen.update(shingles(item.text))
    rest = [item for item in kept if item.group in held_out]
    return train, [item for item in rest if overlap(item.text, seen) <= 0.5]


def without_repeats(items: Iterable[Item]) -> Iterable[Item]:
    """Each text once, the first of those with the same words."""
    seen: set[bytes] = set()
    for item in items:
        key = hashlib.sha256(" ".join(words(item.text)).encode()).digest()
        if key not in seen:
            seen.add(key)
            yield item


def shingles(text: str) -> set[int]:
    """Hashes of all runs of 8 words; a shorter text is one run."""
    parts = words(text)
    runs = range(max(1, len(parts) - SHINGLE + 1)) if parts else range(0)
    return {_hash(" ".join(parts[i : i + SHINGLE])) for i in runs}


def overlap(text: str, seen: Collection[int]) -> float:
    """The share of the text's shingles that are in `seen`."""
    own = shingles(text)
    return sum(run in seen for run in own) / len(own) if own else 1.0


def _hash(run: str) -> int:
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest())
