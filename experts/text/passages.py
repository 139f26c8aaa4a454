"""Passages of a text to embed: documents' beginnings and, if these are too few, more of each."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedmore.experts.text.tokenization import TextTokenizer

LOOKED_AT = 1 << 20
"""Number of a document's first characters from which passages are taken."""

PER_TOKEN = 32
"""Usual upper bound of a token's characters, enough to find a document's first tokens."""


@dataclass(frozen=True)
class Passage:
    """Some consecutive tokens of document `number`."""

    number: int
    ids: list[int]


def passages(
    documents: Sequence[str], text: TextTokenizer, count: int, tokens: int, seed: int
) -> list[Passage]:
    """Draw `count` passages of at most `tokens` tokens, or fewer if the text is short.

    Each document gives its first passage, in an order drawn by `seed`. If these are too few, each
    gives another, and so on.
    """
    generator = random.Random(seed)
    order = generator.sample(range(len(documents)), len(documents))
    first = [(n, text.plain(documents[n][: PER_TOKEN * tokens])[:tokens]) for n in order[:count]]
    found = [Passage(n, ids) for n, ids in first if ids]
    if len(order) >= count:
        return found
    others = [(n, _others(documents[n], text, tokens, generator)) for n in order]
    while others and len(found) < count:
        left = []
        for number, rest in others:
            if (ids := next(rest, None)) is not None and len(found) < count:
                found.append(Passage(number, ids))
                left.append((number, rest))
        others = left
    return found


def _others(
    document: str, text: TextTokenizer, tokens: int, generator: random.Random
) -> Iterator[list[int]]:
    """Yield a document's passages after the first in random order, without a short end."""
    ids = text.plain(document[:LOOKED_AT])
    starts = list(range(tokens, len(ids) - tokens // 2, tokens))
    generator.shuffle(starts)
    return (ids[start : start + tokens] for start in starts)
