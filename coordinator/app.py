"""The coordinator's work as a Flower ServerApp: the plan's stages, one strategy each.

A round is finished when its row is in the registry; the row names the blob that the next round
goes on from, so a coordinator that was stopped goes on after the last finished round.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedmore.coordinator.assemble import EMBEDDINGS, assemble
from fedmore.coordinator.config import FederationConfig
from fedmore.coordinator.evaluate import FORGETTING, Scorer, after_stage, evaluate
from fedmore.coordinator.registry import Registry
from fedmore.coordinator.resume import count_tokens
from fedmore.coordinator.rows import RoundRow
from fedmore.coordinator.store import Store
from fedmore.coordinator.tracking import Tracker
from fedmore.coordinator.versions import STATE, keep_version
from fedmore.coordinator.withdrawal import leave_out
from fedmore.experts.base import linear_shapes
from fedmore.experts.errors import ConfigError
from fedmore.protos.flower import RUN
from fedmore.strategies.embeddings import Embedding
from fedmore.strategies.embeddings import dump as dump_embeddings
from fedmore.strategies.events import (
    Evaluated,
    Event,
    RoundFinished,
    RoundStarted,
    StageStarted,
)
from fedmore.strategies.experts import ExpertStrategy, Progress, train_stage
from fedmore.strategies.plan import Stage
from fedmore.strategies.router import EmbeddingStrategy
from fedmore.strategies.snapshot import dump, restore
from fedmore.strategies.state import ExpertState

Settle = Callable[[str], None]
"""Told the group of tasks ("experts/1") whose round is on disk: its journal may be cleared."""


def keep_all(_group: str) -> None:
    """There is no journal to clear."""


def run_plan(
    *,
    grid: Grid,
    config: FederationConfig,
    directory: Path,
    registry: Registry,
    store: Store,
    tracker: Tracker,
    observer: Callable[[Event], None],
    settle: Settle = keep_all,
) -> None:
    """Run the stages that are left, assemble the mixture, evaluate it, write evaluation.json."""
    run = PlanRun(config, directory, registry, store, tracker, observer, settle)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # the observer shows the rounds
    make_server_app(run)(grid, Context(RUN, 0, {}, RecordDict(), {}))


def make_server_app(run: "PlanRun") -> ServerApp:
    """The ServerApp that carries out `run` over whatever grid it is given."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        run.stages(grid)
        run.result()

    return app


@dataclass
class PlanRun:
    """One federation's plan, and where its results go."""

    config: FederationConfig
    directory: Path
    registry: Registry
    store: Store
    tracker: Tracker
    observer: Callable[[Event], None]
    settle: Settle = keep_all
    _scorer: Scorer | None = field(default=None, init=False)

    @property
    def scorer(self) -> Scorer:
        """The scorer, made when first needed: it loads the base."""
        self._scorer = self._scorer or Scorer(self.config)
        return self._scorer

    def stages(self, grid: Grid) -> None:
        """Every stage in sequence; one that is done already is passed over."""
        rows = self.registry.rounds()
        for index, stage in enumerate(self.config.stages):
            done = [row for row in rows if row.stage == index]
            self.observer(StageStarted(index, stage.kind, stage.rounds))
            if stage.kind == "router":
                self._embed(grid, index, stage, done)
            else:
                self._train(grid, index, stage)
                self._forgetting(index, stage)

    def _train(self, grid: Grid, index: int, stage: Stage) -> None:
        progress = self._progress(index)
        if progress.done >= stage.rounds:
            return
        recorder = Recorder(self, index, stage)
        strategy = ExpertStrategy(
            stage,
            linear_shapes(self.config.base.model),
            self.config.federation.seed,
            recorder.trained,
            progress,
            self.registry.withdrawn,
        )
        recorder.begin(progress.done + 1)
        rounds = stage.rounds - progress.done
        patient = strategy.patient(grid)
        strategy.start(patient, ArrayRecord(), num_rounds=rounds, timeout=stage.timeout_s)

    def _progress(self, index: int) -> Progress:
        """What the rounds of a stage so far have left; nothing before the first."""
        rows = [row for row in self.registry.rounds() if row.stage == index]
        if not rows:
            return Progress()
        metrics = rows[-1].metrics
        states = restore(self.store.get(metrics[STATE]))
        return Progress(rows[-1].round, states, metrics.get("late", ()))

    def _embed(self, grid: Grid, index: int, stage: Stage, done: Sequence[RoundRow]) -> None:
        if done:
            return
        recorder = Recorder(self, index, stage)
        width = self.scorer.base.model.get_input_embeddings().weight.shape[1]
        seed = self.config.federation.seed
        strategy = EmbeddingStrategy(stage, width, seed, recorder.embedded)
        recorder.begin(1)
        strategy.start(grid, ArrayRecord(), num_rounds=1, timeout=stage.timeout_s)

    def _forgetting(self, index: int, stage: Stage) -> None:
        entries: list[Any] = self.registry.get_state(FORGETTING, [])
        if any(entry["stage"] == stage.kind for entry in entries):
            return
        kinds = [train_stage(s.kind) for s in self.config.stages[: index + 1] if s.kind != "router"]
        names = sorted({e.name for e in self.registry.experts() if e.kind in kinds})
        entry = after_stage(self.scorer, self.registry, self.store, stage.kind, names)
        self.registry.set_state(FORGETTING, [*entries, entry])
        self.observer(Evaluated(stage.kind, entry["bits_per_byte"]))

    def result(self) -> None:
        """The mixture and its evaluation, without those who have withdrawn."""
        leave_out(self.config, self.registry, self.store)
        names = sorted({expert.name for expert in self.registry.experts()})
        if not names:
            raise ConfigError("stages: no stage of the plan trains an expert")
        assemble(
            config=self.config,
            directory=self.directory,
            registry=self.registry,
            store=self.store,
            experts=names,
        )
        evaluation = evaluate(
            config=self.config,
            directory=self.directory,
            registry=self.registry,
            store=self.store,
            scorer=self.scorer,
        )
        self.tracker.evaluation(evaluation)
        self.observer(Evaluated("mixture", evaluation["bits_per_byte"]))


class Recorder:
    """Writes a stage's rounds down: blobs, expert versions, then the round itself."""

    def __init__(self, run: PlanRun, index: int, stage: Stage) -> None:
        self.run, self.index, self.stage = run, index, stage
        self._started = datetime.now(UTC)

    def begin(self, number: int) -> None:
        """Round `number` (from 1) begins."""
        self._started = datetime.now(UTC)
        self.run.observer(RoundStarted(self.index, number - 1))

    def trained(
        self, number: int, metrics: dict[str, Any], states: Mapping[str, ExpertState]
    ) -> None:
        """A training round is aggregated."""
        for name, entry in metrics["experts"].items():
            at, known = (self.index, number), dict(entry)
            entry["digest"] = keep_version(
                self.run.registry, self.run.store, states[name], at, known
            )
        self._finish(number, metrics | {STATE: self.run.store.put(dump(states))})

    def embedded(
        self, number: int, metrics: dict[str, Any], embeddings: Mapping[str, Embedding]
    ) -> None:
        """Every client has sent its domain embedding."""
        digest = self.run.store.put(dump_embeddings(embeddings))
        self.run.registry.set_state(EMBEDDINGS, digest)
        self._finish(number, metrics | {STATE: digest})

    def _finish(self, number: int, metrics: dict[str, Any]) -> None:
        self.run.registry.add_round(
            stage=self.index,
            kind=self.stage.kind,
            round=number,
            metrics=metrics,
            started_at=self._started,
        )
        if self.stage.kind != "router":
            count_tokens(self.run.registry)
        self._clear(number)
        self.run.tracker.round(self.index, number, metrics)
        self.run.observer(RoundFinished(self.index, number - 1, metrics))
        if number < self.stage.rounds:
            self.begin(number + 1)

    def _clear(self, number: int) -> None:
        """What only this round needed: its tasks, and the state that it went on from."""
        self.run.settle(f"{self.stage.kind}/{number}")
        for row in self.run.registry.rounds():
            if (row.stage, row.round) == (self.index, number - 1):
                self.run.store.delete(row.metrics[STATE])
