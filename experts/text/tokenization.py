"""Tokenises documents with the federation's opener, and cuts them for scoring."""

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

    The first `given` of `ids` are context and are not scored. The others encode `size` bytes.
    """

    ids: list[int]
    given: int
    size: int


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and an opener.

    Text never gives control tokens: `<|im_end|>` in it is tokenised as characters. The only
    exception are those that a chat template wrote (`fedmore.experts.text.control_tokens`).
    """

    tokenizer: Any
    opener: Opener

    def plain(self, text: str) -> list[int]:
        """Tokenise a text, without an opener."""
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
        """Tokenise a document, with the opener unless a chat template wrote it already."""
        return self.opened(self.plain(text))

    def opened(self, ids: list[int]) -> list[int]:
        """Put the opener before a document's tokens, unless they begin with it."""
        opener = list(self.opener.ids)
        return ids if opener and ids[: len(opener)] == opener else [*opener, *ids]

    def cut(self, text: str, tokens: int) -> Cut:
        """Return the opener and the first `tokens` tokens, fewer if a character would be cut.

        Without an opener the first character cannot be predicted, so it becomes context.
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
    """A token for padding, which is masked: <pad>, else <eos>, else token 0."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in found if token is not None))


def sample(documents: Sequence[str], count: int, seed: int) -> list[str]:
    """Draw `count` documents (or all) without replacement."""
    generator = random.Random(seed)
    chosen: Iterable[str] = generator.sample(list(documents), min(count, len(documents)))
    return list(chosen)
