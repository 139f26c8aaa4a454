"""The coordinator's work as a Flower ServerApp: the plan's stages, one strategy each.

A round is finished when its row is in the registry; the row names the blob that the next round
goes on from, so a coordinator that was stopped goes on after the last finished round.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.lineage.promotion import in_use, why_held
from fedmore.coordinator.mixture.assemble import assemble
from fedmore.coordinator.mixture.evaluate import Scorer, evaluate
from fedmore.coordinator.mixture.exclusions import keep_routable
from fedmore.coordinator.mixture.withdrawal import leave_out
from fedmore.coordinator.monitor.tracker import Tracker
from fedmore.coordinator.run.plan import Settle, keep_all
from fedmore.coordinator.run.recorder import Recorder, named
from fedmore.coordinator.run.stage_end import carried_out, has_owner, skip
from fedmore.coordinator.run.stage_runner import S, StageContext, runner_of
from fedmore.experts.errors import ConfigError, RoundError
from fedmore.protos.wire.flower_compat import RUN
from fedmore.strategies.events import Evaluated, Event, StageSkipped, StageStarted
from fedmore.strategies.rounds.quorum_grid import RoundGrid
from fedmore.strategies.rounds.train_only import RoundStrategy
from fedmore.strategies.stages.base import Stage

log = logging.getLogger(__name__)


def run_stages(
    *,
    federation: Federation,
    grid: Grid,
    tracker: Tracker,
    observer: Callable[[Event], None],
    settle: Settle = keep_all,
) -> None:
    """Run the stages that are left, assemble the mixture, evaluate it, write evaluation.json."""
    logging.getLogger("flwr").setLevel(logging.WARNING)  # the observer shows the rounds
    run = PlanRun(federation, tracker, observer, settle)
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
    """One federation's plan on its way, and where its results go."""

    federation: Federation
    tracker: Tracker
    observer: Callable[[Event], None]
    settle: Settle = keep_all
    _scorer: Scorer | None = field(default=None, init=False)
    _patient: RoundGrid | None = field(default=None, init=False)

    def scorer(self) -> Scorer:
        """The scorer, made when first needed: it loads the base."""
        self._scorer = self._scorer or Scorer(self.federation.config, self.observer)
        return self._scorer

    def stages(self, grid: Grid) -> None:
        """Every stage in sequence; one that is done already is passed over."""
        for index, stage in enumerate(self.federation.config.stages):
            context = self._context(grid, index, stage)
            warnings = tuple(runner_of(stage).advice(context))
            for warning in warnings:
                log.warning("stage %s: %s", stage.kind, warning)
            self.observer(StageStarted(index, stage.kind, stage.rounds, warnings))
            self._persist(grid, index, stage)

    def _context(self, grid: Grid, index: int, stage: S) -> StageContext[S]:
        """What the runner of a stage is given, as it stands now."""
        return StageContext(
            self.federation,
            index,
            stage,
            done=[row for row in self.federation.registry.rounds() if row.stage == index],
            recorder=Recorder(
                self.federation,
                index,
                stage,
                tracker=self.tracker,
                observer=self.observer,
                settle=self.settle,
            ),
            scorer=self.scorer,
            observer=self.observer,
            start=partial(self._start, grid, stage.timeout_s),
        )

    def _persist(self, grid: Grid, index: int, stage: Stage) -> None:
        """Carry a stage out; go on without it if nobody in it succeeds, also at a second try."""
        registry, runner = self.federation.registry, runner_of(stage)
        failed_at = None
        while True:
            context = self._context(grid, index, stage)
            try:
                with named(registry):
                    runner.carry_out(context)
                carried_out(registry, stage)
                return
            except RoundError as error:
                if not error.nobody or not runner.goes_on_without(context):
                    raise
                self._give_up()
                at = len(registry.rounds())
                if at == failed_at or not has_owner(registry, grid, stage, self.observer):
                    skip(registry, stage, str(error))
                    self.observer(StageSkipped(index, stage.kind, str(error)))
                    return
                failed_at = at

    def _give_up(self) -> None:
        """Close the open tasks of a failed round; a client that comes back is asked anew."""
        if self._patient is not None:
            self._patient.give_up(sorted(self._patient.pending))

    def _start(self, grid: Grid, timeout_s: float, strategy: RoundStrategy, rounds: int) -> None:
        """Have a strategy do this many rounds of the stage that is carried out."""
        self._patient = patient = strategy.patient(grid)
        strategy.start(patient, ArrayRecord(), num_rounds=rounds, timeout=timeout_s)

    def result(self) -> None:
        """The mixture and its evaluation, without those who have withdrawn."""
        federation, registry = self.federation, self.federation.registry
        asked = recovery_rounds.asked_for(federation.config, registry)
        leave_out(federation.with_config(asked))
        known = list(in_use(registry))
        if held := why_held(registry):
            whys = (f"{name}, {why}" for name, why in held.items())
            log.warning("held back: %s", "; ".join(whys))
        if not known and held:
            raise RoundError(
                f"no mixture without {', '.join(sorted(held))}: held back; promote a version "
                "(`coordinator experts promote`), or have its owners train on by another start"
            )
        if not known:
            raise ConfigError("stages: no stage of the plan trains an expert")
        assemble(federation, keep_routable(federation, known, self.observer))
        evaluation = evaluate(federation, self.scorer())
        self.tracker.evaluation(evaluation)
        self.observer(Evaluated("mixture", evaluation["bits_per_byte"]))
