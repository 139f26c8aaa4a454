"""Tracks a run in MLflow: `sqlite:///DIR/mlflow.db`, with files under `DIR/mlartifacts`.

One federation directory is one MLflow run, also across restarts. MLflow takes seconds to import, so
a separate thread imports it and writes. Only `finish` waits for that thread. A failure is reported
once and never stops the federation. `mlflow ui --backend-store-uri sqlite:///DIR/mlflow.db` shows
the result. With MLFLOW_TRACKING_URI in the environment, a server stores the run instead.
"""

import dataclasses
import logging
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from fedmore.coordinator.monitor.flatten import flatten, key_of
from fedmore.coordinator.monitor.tracker import Fields, NullTracker, Status, Tracker
from fedmore.coordinator.monitor.tracking_jobs import Jobs, Report, Steps, one_line
from fedmore.coordinator.store.database_url import sqlite_url
from fedmore.experts.errors import RegistryError

if TYPE_CHECKING:
    from fedmore.coordinator.config.schema import FederationConfig

__all__ = ["MlflowTracker", "NullTracker", "Tracker"]

DATABASE = "mlflow.db"
URI = "MLFLOW_TRACKING_URI"
"""MLflow's own environment variable for a server, which replaces the folder's database."""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Defaults for calls to a server; MLflow's own are 7 tries of 120 s with growing pauses."""
TRIES = 3
WAIT_S = 60.0
log = logging.getLogger(__name__)

DRIVER = "sqlite+pysqlite"
"""A driver name with which MLflow does not create a folder named after the URL, with `%3F`."""
_PER_BATCH, _METRICS = 100, 1_000
"""MLflow's limits for one call: 100 params or tags, and 1000 metrics."""
_TRACKED = ("loss", "tokens", "tokens_per_s", "payload_bytes", "download_bytes")
_OF_EXPERTS = (
    "aggregation_error", "rank", "summed_rank", "stored_bytes", "contribution_rank",
    "contribution_bytes", "component_bytes", "broadcast_rank", "broadcast_error", "download_error",
    "download_bytes", "download_bytes_per_owner",
)  # fmt: skip


class MlflowTracker(Tracker):
    """Tracks in the MLflow run of a federation directory, from its own thread.

    MLflow's errors are never raised: the federation continues untracked, and the log has the
    reason.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._jobs = Jobs()
        self._name = ""
        self._worker: Thread | None = None
        self._told = False

    def start(self, config: "FederationConfig") -> None:
        """Begin or continue the run; raises `RegistryError` if it is already open."""
        if self._worker:
            raise RegistryError(f"{self._directory}: this run is already being tracked")
        self._name = config.federation.name
        self._worker = Thread(target=self._work, name="mlflow", daemon=True)
        self._worker.start()
        self._jobs.put(lambda run: run.params(dataclasses.asdict(config)))

    def round(self, stage: int, number: int, metrics: Fields) -> None:
        """Record a round: per client loss, tokens, tokens/s and bytes; per expert the error."""
        self._jobs.put(lambda run: run.round(stage, number, metrics))

    def client_step(
        self, name: str, *, loss: float, tokens_per_s: float, tokens: int | None = None
    ) -> None:
        """Record a progress report; MLflow's step counts the reports of this client.

        It may be called before `start`, if a training client finds its restarted coordinator. The
        report then waits in the queue.
        """
        values = {"loss": loss, "tokens_per_s": tokens_per_s, "tokens": tokens}
        self._jobs.put(Steps(((name, values),)))

    def evaluation(self, evaluation: Fields) -> None:
        """Record bits per byte, forgetting and routing."""
        self._jobs.put(lambda run: run.evaluation(evaluation))

    def artifact(self, path: Path) -> None:
        """Copy the file under `DIR/mlartifacts`."""
        self._jobs.put(lambda run: run.artifact(path))

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is queued, then close the run."""
        if self._worker is None:
            return
        self._jobs.put(lambda run: run.close(status))
        self._jobs.put(None)
        self._worker.join(WAIT_S)
        if self._worker.is_alive():
            self._tell(f"it did not write everything within {WAIT_S:g} s")
        self._worker = None

    def _tell(self, why: str) -> None:
        where = os.environ.get(URI) or self._directory / DATABASE
        level = logging.INFO if self._told else logging.WARNING  # a person sees warnings
        self._told = True
        log.log(
            level, "MLflow (%s) could not write: %s; the federation goes on without", where, why
        )

    def _work(self) -> None:
        """Run the queued jobs.

        A failed one is skipped, and after `TRIES` failures in a row all are.
        """
        run, failed = None, 0
        while job := self._jobs.take():
            if failed == TRIES:
                continue
            try:
                run = run or _Run(self._directory, self._name)
                job(run)
                failed = 0
            except Exception as error:  # MLflow, SQLAlchemy and a server may raise anything
                run, failed = None, failed + 1
                self._tell(one_line(error))


class _Run:
    """One MLflow run; only the tracker's thread uses it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._client = _open_client(directory)
        experiment = self._client.get_experiment_by_name(name)
        # A server decides where the files of its run are.
        files = None if os.environ.get(URI) else (directory / "mlartifacts").as_uri()
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(name, artifact_location=files)
        )
        runs = self._client.search_runs([number], max_results=1)
        self._run = runs[0] if runs else self._client.create_run(number, run_name=name)
        self._id: str = self._run.info.run_id
        self._done = {key for key in self._run.data.tags if key.startswith("round.")}
        self._steps: dict[str, int] = {}
        self._client.update_run(self._id, status="RUNNING")

    def params(self, config: Fields) -> None:
        """Log the configuration; a param cannot change, so a changed one becomes a tag."""
        values = {key: str(value) for key, value in flatten(config, ".")}
        before = self._run.data.params
        self._log({}, params={k: v for k, v in values.items() if k not in before})
        changed = {k: v for k, v in values.items() if before.get(k, v) != v}
        self._log({}, tags={f"changed.{key}": value for key, value in changed.items()})

    def round(self, stage: int, number: int, metrics: Fields) -> None:
        """Log a round once; its tag is written in the same transaction as its metrics."""
        tag = f"round.{stage}.{number}"
        if tag in self._done:
            return
        values: dict[str, Any] = {}
        for name, client in metrics.get("clients", {}).items():
            values |= {f"client/{name}/round_{key}": client.get(key) for key in _TRACKED}
        for name, expert in metrics.get("experts", {}).items():
            values |= {f"expert/{name}/{key}": expert.get(key) for key in _OF_EXPERTS}
        self._log(values, step=len(self._done), tags={tag: str(metrics.get("kind", ""))})
        self._done.add(tag)

    def steps(self, reports: Sequence[Report]) -> None:
        """Log progress, each report at its client's next step, counting those of earlier starts."""
        at, metrics = dict(self._steps), []
        for name, values in reports:
            step = at[name] if name in at else self._first_step(name)
            metrics += _metrics({f"client/{name}/{key}": v for key, v in values.items()}, step)
            at[name] = step + 1
        for first in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._id, metrics[first : first + _METRICS])
        self._steps = at

    def _first_step(self, name: str) -> int:
        history = self._client.get_metric_history(self._id, f"client/{name}/loss")
        return max((point.step for point in history), default=-1) + 1

    def evaluation(self, evaluation: Fields) -> None:
        """Log the final numbers under their dotted names, and forgetting by stage."""
        kept = {key: evaluation.get(key) or {} for key in ("bits_per_byte", "routing", "mixture")}
        self._log(dict(flatten(kept, "/")))
        for step, row in enumerate(evaluation.get("forgetting", ())):
            self._log(dict(flatten({"forgetting": row["bits_per_byte"]}, "/")), step=step)

    def artifact(self, path: Path) -> None:
        """Copy a file to the run's artifacts."""
        self._client.log_artifact(self._id, str(path))

    def close(self, status: Status) -> None:
        """Mark the run as over."""
        self._client.set_terminated(self._id, status)

    def _log(self, values: Fields, *, step: int = 0, **texts: dict[str, str]) -> None:
        """Write the numbers among `values`, and `params` or `tags`, in as few calls as allowed."""
        from mlflow.entities import Param, RunTag

        metrics = _metrics(values, step)
        params = [Param(key_of(k), v) for k, v in texts.get("params", {}).items()]
        tags = [RunTag(key_of(k), v) for k, v in texts.get("tags", {}).items()]
        for at in range(0, max(len(metrics), len(params), len(tags)), _PER_BATCH):
            chunks = (rows[at : at + _PER_BATCH] for rows in (metrics, params, tags))
            self._client.log_batch(self._id, *chunks)


def _metrics(values: Fields, step: int) -> list[Any]:
    """MLflow's metrics of the numbers among `values`."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    numbers = {key_of(k): float(v) for k, v in values.items() if isinstance(v, (int, float))}
    return [Metric(key, value, now, step) for key, value in numbers.items()]


def _open_client(directory: Path) -> Any:
    """MLflow's client on this directory's database, without telemetry and start-up chatter."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    # MLflow's own tables use a loader that SQLAlchemy 2.1 deprecates.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    if uri := os.environ.get(URI):
        for name, value in IMPATIENT.items():
            os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    if uri:
        return MlflowClient(tracking_uri=uri)
    database = directory / DATABASE
    if not database.exists():
        _make(database)
    return MlflowClient(tracking_uri=sqlite_url(database, DRIVER))


def _make(database: Path) -> None:
    """Make the tables in a temporary file, because MLflow fails on partial ones after a kill."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = database.with_suffix(".new")
    aside.unlink(missing_ok=True)
    untyped: Any = SqlAlchemyStore
    store = untyped(sqlite_url(aside, DRIVER), (database.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    aside.replace(database)
