"""The work of an embedding task: the mean input embedding of the owner's text."""

from collections.abc import Sequence

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedmore.client.egress.floors import check_embedded
from fedmore.client.owner.node_config import Node
from fedmore.client.state.memory import Embedding
from fedmore.client.training.checkpoint import key_of_task
from fedmore.client.training.embedding import noised_mean
from fedmore.experts.base.model import Base
from fedmore.experts.text.passages import Passage, passages
from fedmore.kernels.determinism import one_thread
from fedmore.strategies.embedding_stage.strategy import EmbedTask, embedding_content
from fedmore.strategies.tasks.base import Request

EMBEDDED = "router/1"
"""The one round of a stage that collects domain embeddings."""


def embedding_answer(request: Request[EmbedTask], node: Node) -> RecordDict:
    """The answer to an embedding task; an owner gives one embedding and no other, ever."""
    memory, key = node.given, key_of_task(request)
    given = memory.embedding()
    node.answered.check(EMBEDDED, key)
    if given is None:
        node.claim(EMBEDDED, key)
        given = _embedding(node, request.task)
        memory.give(given)
    metrics = {"documents": given.documents, "tokens": given.tokens}
    return embedding_content(given.mean, metrics)


def _embedding(node: Node, task: EmbedTask) -> Embedding:
    base = node.load()
    seed = node.seed("embedding", task.seed)
    found = passages(node.documents(), base.text, task.documents, task.tokens, seed)
    tokens = sum(len(passage.ids) for passage in found)
    check_embedded(node.rules, tokens, len(found))
    means_PD, rows_VD = passage_means(base, found), base.model.get_input_embeddings().weight
    noise = node.seed("embedding noise", task.seed)
    mean_D, _ = noised_mean(means_PD, rows_VD.cpu(), node.rules, noise)
    asked = (task.documents, task.tokens, task.seed)
    return Embedding(asked, mean_D, len({passage.number for passage in found}), tokens)


def passage_means(base: Base, found: Sequence[Passage]) -> Tensor:
    """Mean input embedding [P, D] of every passage, float64, on the CPU."""
    table, device = base.model.get_input_embeddings(), base.model.device
    with one_thread():
        rows = [table(torch.tensor(each.ids, device=device)).double().mean(0) for each in found]
        return torch.stack(rows).cpu()
