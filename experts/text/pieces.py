"""Joins tokens to pieces of text that can be shown; a character of several tokens is one piece.

Shape suffixes: L decisions (layers), T tokens, A arms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

BROKEN = "\ufffd"
"""The character that decoders write for bytes that are not, or not yet, a whole character."""

LONGEST = 3
"""Most tokens of an incomplete character, since a character has at most four bytes."""


@dataclass(frozen=True)
class Piece:
    """The text of `tokens` tokens, and the mean of their weights."""

    text: str
    tokens: int
    weights_LA: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean weights over the decisions, [A]."""
        return self.weights_LA.mean(0)


class Pieces:
    """Joins tokens one after another; `before` are the tokens before them.

    A token's text can depend on the tokens before it: some tokenizers drop a text's first space. So
    its text is what the decoded text grows by.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self._before, self._ids = list(before), list[int]()
        self._weights: list[Tensor] = []

    def add(self, token: int, weights_LA: Tensor) -> Piece | None:
        """Add a token; returns the piece that it completes, or None."""
        self._ids.append(token)
        self._weights.append(weights_LA)
        text = self._text(len(self._ids))
        if text and not text.endswith(BROKEN):
            return self._piece(len(self._ids))
        broken = self._broken() if len(self._ids) > LONGEST else 0
        return self._piece(broken) if broken else None

    def rest(self) -> Piece | None:
        """Return the remaining piece at the end, complete or not."""
        return self._piece(len(self._ids)) if self._ids else None

    def _broken(self) -> int:
        """Number of first tokens that can never become a character; 0 if they still might.

        Their text is kept as it is, and the next token begins another character.
        """
        texts = [self._text(count) for count in range(1, len(self._ids) + 1)]
        for count, (text, longer) in enumerate(pairwise(texts), 1):
            if text != longer and texts[-1].startswith(text):
                return count
        return 0

    def _text(self, count: int) -> str:
        known = self._decode(self._before)
        return self._decode([*self._before, *self._ids[:count]])[len(known) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _piece(self, count: int) -> Piece:
        piece = Piece(self._text(count), count, torch.stack(self._weights[:count]).mean(0))
        self._before = self._ids[:count]
        del self._ids[:count], self._weights[:count]
        return piece


def pieces(tokenizer: Any, ids: Sequence[int], weights_LTA: Tensor) -> list[Piece]:
    """The pieces of all tokens but the first, which has no weights."""
    joined = Pieces(tokenizer, ids[:1])
    added = [joined.add(*each) for each in zip(ids[1:], weights_LTA.unbind(1), strict=True)]
    return [piece for piece in (*added, joined.rest()) if piece is not None]
