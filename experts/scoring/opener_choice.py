"""Chooses the opener by the base's loss on public text, and whether it also opens windows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmore.experts.scoring.bits_per_byte import token_losses
from fedmore.experts.text.opener import NONE, Opener, candidates
from fedmore.experts.text.tokenization import TextTokenizer, sample

DOCUMENTS = 12
TOKENS = 64
FEWEST = 32
"""Number of tokens of a document in whose middle a window is tried."""

CLEARLY = 1e-3
"""Relative difference in bits per byte that counts as better; less may be rounding."""

PARAGRAPH = 200
"""Least characters of a paragraph that serves as a document if documents are few."""


@dataclass(frozen=True)
class Choice:
    """The chosen opener and the figures behind it, all in bits per byte of public text.

    `starts` has the figure for beginnings of documents after each opener. `inside` has two figures
    for windows inside documents: after the chosen opener, and after just the token before them. It
    is None if no document is long enough.
    """

    opener: Opener
    starts: Mapping[str, float]
    inside: tuple[float, float] | None

    def lines(self) -> list[str]:
        """The figures as lines for a person."""
        shown = ", ".join(f"{name} {bits:.3f}" for name, bits in self.starts.items())
        found = [f"opener {self.opener.name}: bits per byte of public text after {shown}"]
        if self.inside is not None:
            how = "opened too" if self.opener.windows else "not opened"
            found.append(
                f"windows inside a document are {how}: {self.inside[0]:.3f} after the opener, "
                f"{self.inside[1]:.3f} without"
            )
        return found


def choose(model: Any, tokenizer: Any, documents: Sequence[str]) -> Choice:
    """Try every opener of the tokenizer and take the first that is as good as the best.

    Windows are opened only if that is clearly better, so that every machine makes the same choice.
    """
    texts = sample(_enough(documents), DOCUMENTS, 0)
    known = candidates(tokenizer)
    plain = TextTokenizer(tokenizer, Opener(NONE, ()))
    ids = [found for text in texts if len(found := plain.plain(text)) > 1]
    starts = {name: _bits(model, tokenizer, opener, ids, 0) for name, opener in known.items()}
    enough = min(starts.values()) * (1 + CLEARLY)
    name = next(each for each, bits in starts.items() if bits <= enough)
    long = [row for row in ids if len(row) >= FEWEST]
    if not known[name] or not long:
        return Choice(Opener(name, known[name]), starts, None)
    inside = (
        _bits(model, tokenizer, known[name], long, 2),
        _bits(model, tokenizer, None, long, 2),
    )
    better = inside[0] < inside[1] * (1 - CLEARLY)
    return Choice(Opener(name, known[name], better), starts, inside)


def _enough(documents: Sequence[str]) -> list[str]:
    """Return the documents, or their paragraphs if documents are few."""
    if len(documents) >= DOCUMENTS:
        return list(documents)
    parts = [part.strip() for text in documents for part in text.split("\n\n")]
    return [part for part in parts if len(part) >= PARAGRAPH] or list(documents)


def _bits(
    model: Any,
    tokenizer: Any,
    opener: tuple[int, ...] | None,
    ids: Sequence[Sequence[int]],
    middle: int,
) -> float:
    """Bits per byte of texts from their beginning or, if `middle` is 2, from half-way on.

    The context is the opener or, if it is None, the token before. The first token of a text does
    not count, so that all openers are compared on the same tokens.
    """
    rows, counted = [], []
    for each in ids:
        start = len(each) // middle if middle else 0
        part = list(each[start : start + TOKENS])
        context = [each[start - 1]] if opener is None else list(opener)
        rows.append([*context, *part])
        counted.append(part)
    losses = token_losses(model, rows)
    nats = sum(
        float(loss[-(len(part) - 1) :].sum()) for loss, part in zip(losses, counted, strict=True)
    )
    size = sum(_size(tokenizer, part) - _size(tokenizer, part[:1]) for part in counted)
    return nats / math.log(2) / size


def _size(tokenizer: Any, ids: Sequence[int]) -> int:
    return len(tokenizer.decode(ids, clean_up_tokenization_spaces=False).encode())
