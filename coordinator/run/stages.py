"""The coordinator's work as a Flower ServerApp: the plan's stages, one strategy each.

A round is finished when its row is in the registry; the row names the blob that the next round
goes on from, so a coordinator that was stopped goes on after the last finished round.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.mixture.assemble import assemble
from fedmore.coordinator.mixture.evaluate import Scorer, evaluate
from fedmore.coordinator.mixture.exclusions import keep_routable
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.coordinator.monitor.mlflow_tracker import Tracker
from fedmore.coordinator.run.recorder import named
from fedmore.coordinator.run.stage_end import carried_out, has_owner, skip
from fedmore.coordinator.run.stage_runner import runner_of
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import HELD
from fedmore.experts.errors import ConfigError, RoundError
from fedmore.protos.wire.flower_compat import RUN
from fedmore.strategies.events import Evaluated, Event, StageStarted
from fedmore.strategies.rounds.quorum_grid import RoundGrid
from fedmore.strategies.rounds.train_only import RoundStrategy
from fedmore.strategies.stages.base import Stage

log = logging.getLogger(__name__)

Settle = Callable[[str, Collection[str]], None]
"""Told the group of tasks ("experts/1") whose round is on disk, and the ids of those that may
still be answered late: the rest of its journal may be cleared."""


def keep_all(_group: str, _late: Collection[str]) -> None:
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
    _patient: RoundGrid | None = field(default=None, init=False)

    @property
    def scorer(self) -> Scorer:
        """The scorer, made when first needed: it loads the base."""
        self._scorer = self._scorer or Scorer(self.config, self.observer)
        return self._scorer

    def stages(self, grid: Grid) -> None:
        """Every stage in sequence; one that is done already is passed over."""
        for index, stage in enumerate(self.config.stages):
            warnings = tuple(runner_of(stage).advice(self, stage))
            for warning in warnings:
                log.warning("stage %s: %s", stage.kind, warning)
            self.observer(StageStarted(index, stage.kind, stage.rounds, warnings))
            self._persist(grid, index, stage)

    def _persist(self, grid: Grid, index: int, stage: Stage) -> None:
        """Carry a stage out; go on without it if nobody in it succeeds, also at a second try."""
        failed_at = None
        while True:
            done = [row for row in self.registry.rounds() if row.stage == index]
            try:
                with named(self.registry):
                    runner_of(stage).carry_out(self, grid, index, stage, done)
                return carried_out(self.registry, stage)
            except RoundError as error:
                if not error.nobody or not runner_of(stage).goes_on_without(self, index, stage):
                    raise
                self._give_up()
                at = len(self.registry.rounds())
                if at == failed_at or not has_owner(self, grid, stage):
                    return skip(self, index, stage, str(error))
                failed_at = at

    def _give_up(self) -> None:
        """Close the open tasks of a failed round; a client that comes back is asked anew."""
        if self._patient is not None:
            self._patient.give_up(sorted(self._patient.pending))

    def start(self, strategy: RoundStrategy, grid: Grid, rounds: int, timeout_s: float) -> None:
        """Have a strategy do this many rounds of the stage that is carried out."""
        self._patient = patient = strategy.patient(grid)
        strategy.start(patient, ArrayRecord(), num_rounds=rounds, timeout=timeout_s)

    def result(self) -> None:
        """The mixture and its evaluation, without those who have withdrawn."""
        leave_out(recovery_rounds.asked_for(self.config, self.registry), self.registry, self.store)
        known = sorted({expert.name for expert in self.registry.experts()})
        if held := self.registry.get_state(HELD, {}):
            whys = (f"{name}, {entry['why']}" for name, entry in sorted(held.items()))
            log.warning("held back: %s", "; ".join(whys))
        if not known and held:
            raise RoundError(
                f"no mixture without {', '.join(sorted(held))}: held back after a withdrawal; "
                "change withdrawal.when_worse, or have its owners train on by another start"
            )
        if not known:
            raise ConfigError("stages: no stage of the plan trains an expert")
        names = keep_routable(self.config, self.registry, self.store, known, self.observer)
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
