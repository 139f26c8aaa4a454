"""The windows of the owner's text that a task trains on."""

import torch
from torch import Tensor

from fedmore.client.contract import Contract
from fedmore.experts.base import Base
from fedmore.experts.text import tokenize, windows
from fedmore.strategies.work import Work


def drawn(contract: Contract, task: Work) -> Tensor:
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
