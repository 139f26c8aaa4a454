"""Splits a text into sides that share no source, no version of a text and no passage."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedmore.sims.data.grams import ALIKE, HEAD, PASSAGE, PHRASE, all_grams, grams, overlap
from fedmore.sims.data.items import Item, words

HELD_OUT, PROXY = 0.25, 0.05
LARGEST = 0.05
HEAD_PHRASES = 0.1
"""Largest share of a head's runs of 8 words that may occur on another side."""

RULE = (HELD_OUT, PROXY, LARGEST, PASSAGE, PHRASE, HEAD, ALIKE, HEAD_PHRASES)
"""Version of the rule; text in the cache by another rule is not used."""


@dataclass(frozen=True)
class Sides:
    """Text for owners, text to score, and text for a coordinator's router training."""

    train: list[Item]
    heldout: list[Item]
    proxy: list[Item]

    def map(self, change: Callable[[list[Item]], list[Item]]) -> "Sides":
        """Apply `change` to every side."""
        return Sides(change(self.train), change(self.heldout), change(self.proxy))


def group_sizes(items: Iterable[Item]) -> Counter[str]:
    """Characters of each group."""
    sizes: Counter[str] = Counter()
    for item in items:
        sizes[item.group] += len(item.text)
    return sizes


def choose_groups(
    sizes: Mapping[str, int], fractions: Sequence[float] = (HELD_OUT, PROXY)
) -> list[frozenset[str]]:
    """For each fraction, choose distinct groups with about that share of the characters.

    The order follows from a hash of the groups' names. A group above 5 % of the text is not chosen,
    for variety.
    """
    total = sum(sizes.values())
    small = [group for group, size in sizes.items() if size <= LARGEST * total]
    rest = sorted(small, key=lambda name: hashlib.sha256(name.encode()).digest())
    found = []
    for fraction in fractions:
        chosen, taken = set(), 0
        while rest and taken < fraction * total:
            chosen.add(rest[0])
            taken += sizes[rest.pop(0)]
        found.append(frozenset(chosen))
    return found


def split(items: Iterable[Item], held_out: Collection[str], proxy: Collection[str] = ()) -> Sides:
    """Split by group; if two sides share a passage, the later side loses the text.

    The order is train, held out, proxy. Of similar held-out texts, the first is kept.
    """
    every = list(without_repeats(items))
    train = [item for item in every if item.group not in held_out and item.group not in proxy]
    heldout = _unlike(_apart([item for item in every if item.group in held_out], train))
    rest = [item for item in every if item.group in proxy and item.group not in held_out]
    return Sides(train, heldout, _apart(rest, [*train, *heldout]))


def _apart(items: Iterable[Item], others: Sequence[Item]) -> list[Item]:
    """Keep the texts without a passage of others, and with hardly a phrase of them in the head."""
    passages, phrases = (
        all_grams((item.text for item in others), length) for length in (PASSAGE, PHRASE)
    )
    return [
        item
        for item in items
        if passages.isdisjoint(grams(item.text, PASSAGE))
        and overlap(item.text[:HEAD], phrases, PHRASE) <= HEAD_PHRASES
    ]


def _unlike(items: Iterable[Item]) -> list[Item]:
    """Keep the texts that share less than half of their passages with earlier ones."""
    seen: set[int] = set()
    found = []
    for item in items:
        if overlap(item.text, seen, PASSAGE) < ALIKE:
            found.append(item)
            seen |= grams(item.text, PASSAGE)
    return found


def portions(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Divide text among `count` owners, so that they share no family and no passage.

    A family goes to the owner with most of its passages or, if that owner's part is full, to the
    one with the least text. A text that repeats a passage of another owner is dropped.
    """
    if count == 1:
        return [list(items)]
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    owners: list[list[Item]] = [[] for _ in range(count)]
    held: list[set[int]] = [set() for _ in range(count)]
    sizes = [0] * count
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        own = [grams(item.text, PASSAGE) for item in groups[name]]
        least = min(range(count), key=sizes.__getitem__)
        shared = [len(set().union(*own) & each) for each in held]
        most = max(range(count), key=shared.__getitem__)
        chosen = most if shared[most] and sizes[most] <= 2 * sizes[least] else least
        for item, runs in zip(groups[name], own, strict=True):
            if all(each.isdisjoint(runs) for n, each in enumerate(held) if n != chosen):
                owners[chosen].append(item)
                held[chosen] |= runs
                sizes[chosen] += len(item.text)
    return owners


def without_repeats(items: Iterable[Item]) -> Iterable[Item]:
    """Keep the first of all texts with the same words."""
    seen: set[bytes] = set()
    for item in items:
        key = hashlib.sha256(" ".join(words(item.text)).encode()).digest()
        if key not in seen:
            seen.add(key)
            yield item


def in_families(items: Iterable[Item], family: Mapping[str, str]) -> list[Item]:
    """Replace each item's group by its family, if that is known."""
    return [replace(item, group=family.get(item.group, item.group)) for item in items]
