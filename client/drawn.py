"""The windows of the owner's text that a task trains on."""

from typing import Protocol

import torch
from torch import Tensor

from fedmore.client.contract import Contract
from fedmore.experts.base import Base
from fedmore.experts.text import tokenize, windows


class Asked(Protocol):
    """As much of a task as decides what text it is given."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        ...

    @property
    def batch_size(self) -> int:
        """Windows a step."""
        ...

    @property
    def sequence_length(self) -> int:
        """Tokens a window."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads; 0 leaves them as they are."""
        ...

    @property
    def seed(self) -> int:
        """The federation's."""
        ...

    @property
    def round(self) -> int:
        """From 1."""
        ...


def drawn(contract: Contract, task: Asked) -> Tensor:
    """Windows [steps * batch, T + 1] for a task, other ones in every round.

    Raises `EgressError` where the owner has less text than may be trained on.
    """
    if task.threads:
        torch.set_num_threads(task.threads)
    node, base = contract.node, contract.node.load()
    contract.check_text(_tokens(base, node.documents(), node.min_tokens))
    count, seed = task.steps * task.batch_size, task.seed * 1000 + task.round
    return windows(node.documents(), base.tokenizer, task.sequence_length, count, seed)


def _tokens(base: Base, documents: tuple[str, ...], enough: int) -> int:
    """Tokens of the documents, counted up to `enough`."""
    count = 0
    for text in documents:
        if count >= enough:
            break
        count += len(tokenize(base.tokenizer, text))
    return count
