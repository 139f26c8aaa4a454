"""Text as tokens: documents opened as the federation has chosen, and cut for scoring."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedmore.experts.text.control_tokens import OPEN, parts
from fedmore.experts.text.opener import Opener
from fedmore.experts.text.pieces import BROKEN


@dataclass(frozen=True)
class Cut:
    """The beginning of a document to score.

    The first `given` of `ids` are context and are not scored; the others encode `size` bytes.
    """

    ids: list[int]
    given: int
    size: int


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and what opens a document.

    Text is never read as control tokens: one that holds `<|im_end|>` gives the characters of it.
    Only what a chat template wrote is (`fedmore.experts.text.control_tokens`).
    """

    tokenizer: Any
    opener: Opener

    def plain(self, text: str) -> list[int]:
        """Tokens of a text, without an opener."""
        if OPEN not in text:
            return self._split(text)
        ids = []
        for part, control in parts(self.tokenizer, text):
            one = self.tokenizer.convert_tokens_to_ids
            ids += [int(one(part))] if control else self._split(part)
        return ids

    def _split(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        return ids

    def document(self, text: str) -> list[int]:
        """Tokens of a document, opened; a chat template may have done so already."""
        return self.opened(self.plain(text))

    def opened(self, ids: list[int]) -> list[int]:
        """A document's tokens after the opener, which is not put there twice."""
        opener = list(self.opener.ids)
        return ids if opener and ids[: len(opener)] == opener else [*opener, *ids]

    def cut(self, text: str, tokens: int) -> Cut:
        """Opener and first `tokens` tokens of a document, fewer if a character would be cut.

        Without an opener nothing predicts the first character, so it is context.
        """
        plain = self.plain(text)
        plain = self.opened(plain)[len(self.opener.ids) :]
        ids = plain[:tokens]
        while ids and len(ids) < len(plain) and self._decode(ids).endswith(BROKEN):
            ids.pop()
        if self.opener.ids:
            return Cut([*self.opener.ids, *ids], len(self.opener.ids), self._bytes(ids))
        given = min(1, len(ids))
        while given < len(ids) and self._decode(ids[:given]).endswith(BROKEN):
            given += 1
        return Cut(ids, given, self._bytes(ids) - self._bytes(ids[:given]))

    def _bytes(self, ids: Sequence[int]) -> int:
        return len(self._decode(ids).encode())

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text


def pad_token(tokenizer: Any) -> int:
    """A token for padding, which no one attends to: <pad>, else <eos>, else the first."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in found if token is not None))


def sample(documents: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` documents (or all), drawn without replacement."""
    generator = random.Random(seed)
    chosen: Iterable[str] = generator.sample(list(documents), min(count, len(documents)))
    return list(chosen)
