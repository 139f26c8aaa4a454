"""The stage that collects domain embeddings, carried out."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fedmore.coordinator.mixture.exclusions import warnings_of
from fedmore.coordinator.mixture.versions import STATE
from fedmore.coordinator.run.recorder import Recorder
from fedmore.coordinator.run.stage_runner import StageRunner
from fedmore.coordinator.store.records import RoundRow
from fedmore.coordinator.store.state_keys import EMBEDDINGS
from fedmore.strategies.embedding_stage.embeddings import Embedding, dump
from fedmore.strategies.embedding_stage.strategy import EmbeddingStrategy
from fedmore.strategies.stages.embedding import EmbeddingStage

if TYPE_CHECKING:
    from fedmore.coordinator.run.stages import PlanRun


def carry_out(
    run: "PlanRun", grid: Grid, index: int, stage: EmbeddingStage, done: Sequence[RoundRow]
) -> None:
    """Ask every client once."""
    if done:
        return
    recorder = Recorder(run, index, stage)
    width = run.scorer.base.model.get_input_embeddings().weight.shape[1]
    seed, collected = run.config.federation.seed, partial(_collected, recorder)
    strategy = EmbeddingStrategy(stage, width, seed, collected, run.registry.withdrawn)
    recorder.begin(1)
    run.start(strategy, grid, 1, stage.timeout_s)


def _collected(
    recorder: Recorder, number: int, metrics: dict[str, Any], found: Mapping[str, Embedding]
) -> None:
    """The domain embeddings are here; an expert without one is a warning."""
    registry, store = recorder.run.registry, recorder.run.store
    digest = store.put(dump(found))
    registry.set_state(EMBEDDINGS, digest)
    warnings = warnings_of(recorder.run.config, registry, store)
    recorder.finish(number, metrics | {STATE: digest, "warnings": warnings})


def goes_on_without(run: "PlanRun", _index: int, _stage: EmbeddingStage) -> bool:
    """Whether the router is made of something else."""
    return not run.config.router.embeds


RUNNER = StageRunner(carry_out, goes_on_without)
