"""Documents cut into training windows, or scored one by one."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.errors import DataError


def start_token(tokenizer: Any) -> int:
    """The token that opens a document: <bos> where there is one, else <eos>."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return int(token)


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Tokens of one document, opened by the start token."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [start_token(tokenizer), *ids]


def windows(documents: Sequence[str], tokenizer: Any, length: int, count: int, seed: int) -> Tensor:
    """`count` training windows [count, length + 1] of shuffled documents laid end to end.

    Tokenises only as much as it needs and starts over when the text is used up. Raises `DataError`
    when there is not one token to train on.
    """
    if not documents:
        raise DataError("no documents to train on")
    stream = _endless(documents, tokenizer, seed)
    needed = count * length + 1
    tokens: list[int] = []
    while len(tokens) < needed:
        tokens.extend(next(stream))
    flat = torch.tensor(tokens[:needed])
    return flat.unfold(0, length + 1, length).clone()


def _endless(documents: Sequence[str], tokenizer: Any, seed: int) -> Iterator[list[int]]:
    order = list(range(len(documents)))
    generator = random.Random(seed)
    while True:
        generator.shuffle(order)
        for index in order:
            yield tokenize(tokenizer, documents[index])


def sample(documents: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` documents (or all), drawn without replacement."""
    generator = random.Random(seed)
    chosen: Iterable[str] = generator.sample(list(documents), min(count, len(documents)))
    return list(chosen)
