"""The stage that collects domain embeddings, carried out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fedmore.coordinator.mixture.exclusions import warnings_of
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.run.stage_runner import StageContext, StageRunner
from fedmore.coordinator.store.state_keys import EMBEDDINGS
from fedmore.strategies.embedding_stage.embeddings import Embedding, dump
from fedmore.strategies.embedding_stage.strategy import EmbeddingStrategy
from fedmore.strategies.stages.embedding import EmbeddingStage


def carry_out(context: StageContext[EmbeddingStage]) -> None:
    """Ask every client once."""
    if context.done:
        return
    federation = context.federation
    width = context.scorer().base.model.get_input_embeddings().weight.shape[1]
    seed, collected = federation.config.federation.seed, partial(_collected, context)
    withdrawn = federation.registry.withdrawn
    strategy = EmbeddingStrategy(context.stage, width, seed, collected, withdrawn)
    context.recorder.begin(1)
    context.start(strategy, 1)


def _collected(
    context: StageContext[EmbeddingStage],
    number: int,
    metrics: dict[str, Any],
    found: Mapping[str, Embedding],
) -> None:
    """The domain embeddings are here; an expert without one is a warning."""
    federation = context.federation
    digest = federation.store.put(dump(found))
    federation.registry.set_state(EMBEDDINGS, digest)
    warnings = warnings_of(federation)
    context.recorder.finish(number, metrics | {STATE: digest, "warnings": warnings})


def goes_on_without(context: StageContext[EmbeddingStage]) -> bool:
    """Whether the router is made of something else."""
    return not context.federation.config.router.embeds


RUNNER = StageRunner(carry_out, goes_on_without)
