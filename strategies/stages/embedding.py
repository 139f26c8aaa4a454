"""Settings of the stage that collects domain embeddings."""

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic.dataclasses import dataclass

from fedmore.strategies.settings import STRICT
from fedmore.strategies.stages.base import KIND, Stage

if TYPE_CHECKING:
    from fedmore.strategies.terms import Terms


@dataclass(frozen=True, config=STRICT)
class EmbeddingStage(Stage):
    """Every client sends the mean embedding of its text, once.

    Its kind is `router` in files and on the wire, since the embeddings are made for the router.
    """

    kind: Annotated[Literal["router"], KIND] = field(default="router", kw_only=True)

    def summary(self, terms: "Terms") -> str:
        """How much text an embedding is made of."""
        return (
            f"one mean embedding of up to {terms.embed_documents} documents, "
            f"{terms.embed_tokens} tokens of each"
        )
