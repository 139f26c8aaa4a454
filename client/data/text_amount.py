"""How much distinct text an owner has: what the floors of its policy are compared with."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedmore.experts.text.tokenization import TextTokenizer

PASSAGE = 128
"""Tokens of a passage: a shorter document is one, a longer one is several."""


@dataclass(frozen=True)
class TextAmount:
    """Tokens and passages of distinct documents."""

    tokens: int
    passages: int


def text_amount(documents: Iterable[str], text: TextTokenizer, enough: TextAmount) -> TextAmount:
    """Count the text, up to about `enough` of both; a document that is there twice counts once."""
    tokens, passages = 0, 0
    for document in dict.fromkeys(documents):
        if tokens >= enough.tokens and passages >= enough.passages:
            break
        count = len(text.plain(document))
        tokens += count
        passages += -(-count // PASSAGE)
    return TextAmount(tokens, passages)
