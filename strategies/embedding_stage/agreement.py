"""Whether an embedding task is the one of the plan that an owner agreed to."""

from dataclasses import asdict

from fedmore.strategies.embedding_stage.strategy import EmbedTask, read_embed_request
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.tasks.agreement import no_stage
from fedmore.strategies.tasks.schema import TaskSchema
from fedmore.strategies.terms import Terms, differing


def embed_differences(terms: Terms, task: EmbedTask) -> list[str]:
    """In what an embedding task differs from the terms; nothing if it does not."""
    if not isinstance(terms.stage(task.stage), EmbeddingStage):
        return [no_stage(task.stage)]
    agreed = {"documents": terms.embed_documents, "tokens": terms.embed_tokens, "seed": terms.seed}
    return differing(agreed | {"round": 1, "stage": "router"}, asdict(task), frozenset())


TASK = TaskSchema(read_embed_request, embed_differences)
