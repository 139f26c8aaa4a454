"""What an owner keeps out of its training, to judge by it what the coordinator sends.

Of at least 32 documents some whole ones are set aside, of fewer but long ones some windows; of less
text nothing. What is set aside is drawn by the owner's seed and never trained on.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmore.experts.text.segments import Segment, segments_of
from fedmore.experts.text.tokenization import TextTokenizer
from fedmore.experts.text.windows import Place, Stream

LENGTH = 128
"""Tokens of a window that is set aside."""

MOST = 16
"""Most windows that are set aside."""

PART = 16
"""One in this many documents or windows is set aside."""

DOCUMENTS = 32
"""With fewer documents than this, windows are set aside in place of documents."""

WINDOWS = 64
"""With fewer windows than this, nothing is set aside."""

LOOKED_AT = 4 << 20
"""Characters among which windows are drawn; of a longer text the rest is not looked at."""


@dataclass(frozen=True)
class Parts:
    """The segments to train on, and what is set aside: windows [W, T + 1], or None."""

    training: tuple[Segment, ...]
    holdout: Tensor | None


def set_aside(documents: Sequence[str], text: TextTokenizer, seed: int) -> Parts:
    """Divide an owner's text; the same text and seed give the same parts."""
    generator = random.Random(f"holdout/{seed}")
    if len(documents) >= DOCUMENTS:
        return _documents(documents, text, generator)
    return _windows(documents, text, generator)


def _documents(documents: Sequence[str], text: TextTokenizer, generator: random.Random) -> Parts:
    order = list(range(len(documents)))
    generator.shuffle(order)
    chosen, tokens = set[int](), 0
    for number in order[: len(documents) // PART]:
        if tokens >= MOST * LENGTH:
            break
        chosen.add(number)
        tokens += len(text.document(documents[number][: MOST * LENGTH * 8]))
    whole = segments_of(documents)
    held = [segment for segment in whole if segment.number in chosen]
    left = tuple(segment for segment in whole if segment.number not in chosen)
    length = max(1, min(LENGTH, tokens))
    stream = Stream(text, held, length, seed=0)
    count = max(1, min(MOST, tokens // length))
    return Parts(left, stream.take(Place(), count).windows if stream.tokens else None)


def _windows(documents: Sequence[str], text: TextTokenizer, generator: random.Random) -> Parts:
    segments = segments_of(documents)
    order = list(range(len(segments)))
    generator.shuffle(order)
    ids, looked_at = dict[int, list[int]](), 0
    for number in order:
        if looked_at < LOOKED_AT:
            ids[number] = text.plain(segments[number].text)
            looked_at += len(segments[number].text)
    # Not the first window of a segment: a token stands before every other.
    places = [(n, at) for n in ids for at in range(LENGTH, len(ids[n]) - LENGTH + 1, LENGTH)]
    if len(places) < WINDOWS:
        return Parts(tuple(segments), None)
    chosen = generator.sample(places, min(MOST, len(places) // PART))
    rows = [_window(ids[number], at, text) for number, at in chosen]
    for number, at in chosen:
        without = (*segments[number].without, (at, at + LENGTH))
        segments[number] = replace(segments[number], without=without)
    return Parts(tuple(segments), torch.tensor(rows))


def _window(ids: Sequence[int], at: int, text: TextTokenizer) -> list[int]:
    opener = text.opener
    context = [*opener.ids] if opener.windows else [ids[at - 1]]
    return [*context, *ids[at : at + LENGTH + 1 - len(context)]]
