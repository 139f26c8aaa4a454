"""What may be asked of a client, and leave it, where it sends the embedding of its domain."""

from collections.abc import Mapping

from fedmore.client.egress.answer_rules import AnswerRules
from fedmore.client.egress.floors import check_text
from fedmore.client.egress.schema import AnswerSchema, embed_answer
from fedmore.client.owner.node_config import Node
from fedmore.experts.errors import EgressError
from fedmore.strategies.embedding_stage.strategy import EmbedTask
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.terms import Terms

MIN_DOCUMENTS = 16
"""Number of documents that an embedding is made of at least, so that it shows no single one."""


class EmbeddingRules(AnswerRules):
    """One mean of enough documents."""

    def check(self, node: Node, task: EmbedTask) -> None:
        """Raise `EgressError` for an embedding of too few documents, or of nothing of them."""
        if task.documents < MIN_DOCUMENTS:
            raise EgressError(
                f"asked to embed {task.documents} documents, fewer than {MIN_DOCUMENTS}"
            )
        if task.tokens < 1:
            raise EgressError(f"asked to embed {task.tokens} tokens of a document, fewer than 1")

    def check_stage(self, node: Node, stage: EmbeddingStage, terms: Terms) -> None:
        """Raise `EgressError` if there is too little text."""
        check_text(node, node.rules.min_embedding_tokens)

    def answer(self, node: Node, task: EmbedTask) -> AnswerSchema:
        """One vector, and two numbers."""
        return embed_answer(node.width)

    def arrays(self, node: Node, task: EmbedTask) -> Mapping[str, int]:
        """One row of the base's width."""
        return {f"1x{node.width}": 1}


RULES = EmbeddingRules()
