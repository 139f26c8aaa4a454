"""Tracking: what lands in MLflow, and that a restart goes on with the same run.

MLflow takes seconds to import and to make its tables, so one run serves most of the tests.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedmore.coordinator.config.schema import FederationConfig, parse_config
from fedmore.coordinator.monitor.flatten import flatten
from fedmore.coordinator.monitor.mlflow_tracker import MlflowTracker, NullTracker, Tracker
from fedmore.experts.errors import RegistryError

ROUND = {
    "kind": "experts",
    "clients": {
        "ana": {"loss": 2.5, "tokens": 640, "tokens_per_s": 64.0, "payload_bytes": 1000},
        "béla & co": {"loss": 3.5, "tokens": 320, "tokens_per_s": 32.0, "payload_bytes": None},
    },
    "experts": {"legal": {"aggregation_error": 2e-7, "rank": 16, "digest": "ab"}},
}
EVALUATION = {
    "bits_per_byte": {
        "legal": {
            "base": {"mean": 1.2, "ci95": [1.1, 1.3]},
            "own_expert": None,
            "mixture": {"mean": 1.0, "ci95": [0.9, 1.1]},
        }
    },
    "forgetting": [
        {"stage": "experts", "bits_per_byte": {"plain": {"mean": 1.5, "ci95": [1.4, 1.6]}}},
        {"stage": "language", "bits_per_byte": {"plain": {"mean": 1.6, "ci95": [1.5, 1.7]}}},
    ],
    "mixture": {"params": 10, "active_params": 5, "router": "domain"},
}


def config(port: int = 8470) -> FederationConfig:
    table: dict[str, object] = {
        "federation": {"name": "town", "seed": 7},
        "base": {"model": "tiny"},
        "server": {"port": port},
    }
    return parse_config(table, "test")


def client_of(directory: Path) -> object:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{directory / 'mlflow.db'}")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its first round and started again with another port."""
    directory = tmp_path_factory.mktemp("federation")
    first: Tracker = MlflowTracker(directory)
    first.client_step("ana", loss=4.0, tokens_per_s=50.0, tokens=64)  # may come before the start
    first.start(config())
    first.round(0, 1, ROUND)
    first.finish("KILLED")
    second = MlflowTracker(directory)
    second.start(config(port=9000))
    second.client_step("ana", loss=3.0, tokens_per_s=55.0)
    second.round(0, 1, ROUND)
    second.round(0, 2, ROUND)
    second.evaluation(EVALUATION)
    (directory / "evaluation.json").write_text("{}", encoding="utf-8")
    second.artifact(directory / "evaluation.json")
    second.finish()
    return directory


def the_run(directory: Path):
    client = client_of(directory)
    (run,) = client.search_runs([client.get_experiment_by_name("town").experiment_id])
    return client, run


def test_a_restart_goes_on_with_the_same_run(tracked: Path) -> None:
    client, run = the_run(tracked)
    assert run.info.status == "FINISHED"
    losses = client.get_metric_history(run.info.run_id, "client/ana/loss")
    assert [(point.step, point.value) for point in losses] == [(0, 4.0), (1, 3.0)]


def test_a_round_is_written_once(tracked: Path) -> None:
    client, run = the_run(tracked)
    points = client.get_metric_history(run.info.run_id, "client/ana/round_loss")
    assert [point.step for point in points] == [0, 1]


def test_the_configuration_is_params_and_a_change_is_a_tag(tracked: Path) -> None:
    _, run = the_run(tracked)
    assert run.data.params["federation.seed"] == "7"
    assert run.data.params["stages.0.kind"] == "experts"
    assert run.data.params["server.port"] == "8470"
    assert run.data.tags["changed.server.port"] == "9000"


def test_metrics_of_clients_experts_and_the_evaluation(tracked: Path) -> None:
    client, run = the_run(tracked)
    metrics = run.data.metrics
    assert metrics["client/ana/round_payload_bytes"] == 1000
    assert metrics["client/béla _ co/round_loss"] == 3.5
    assert "client/béla _ co/round_payload_bytes" not in metrics
    assert metrics["expert/legal/aggregation_error"] == 2e-7
    assert metrics["bits_per_byte/legal/mixture/mean"] == 1.0
    assert metrics["bits_per_byte/legal/base/ci95/1"] == 1.3
    history = client.get_metric_history(run.info.run_id, "forgetting/plain/mean")
    assert [point.value for point in history] == [1.5, 1.6]


def test_files_are_kept_beside_the_database(tracked: Path) -> None:
    kept = list((tracked / "mlartifacts").rglob("evaluation.json"))
    assert len(kept) == 1


def test_telemetry_is_off(tracked: Path) -> None:
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()


def test_start_returns_at_once_and_imports_nothing() -> None:
    """Neither the import of this module nor making a tracker may load mlflow."""
    code = (
        "import sys, pathlib; from fedmore.coordinator.monitor.mlflow_tracker import MlflowTracker;"
        "MlflowTracker(pathlib.Path('.')); sys.exit('mlflow' in sys.modules)"
    )
    paths = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0


def test_a_tracker_is_started_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database", encoding="utf-8")
    tracker = MlflowTracker(tmp_path)
    begun = time.monotonic()
    tracker.start(config())
    assert time.monotonic() - begun < 1, "it does not wait for the import"
    with pytest.raises(RegistryError, match="already"):
        tracker.start(config())
    tracker.finish()
    tracker.finish()


def test_the_null_tracker_does_nothing(tmp_path: Path) -> None:
    tracker: Tracker = NullTracker()
    tracker.start(config())
    tracker.client_step("ana", loss=1.0, tokens_per_s=1.0)
    tracker.round(0, 1, ROUND)
    tracker.evaluation(EVALUATION)
    tracker.artifact(tmp_path)
    tracker.finish()
    assert not list(tmp_path.iterdir())


def test_flatten_gives_dotted_paths() -> None:
    nested = {"a": {"b": [1, {"c": None}]}, "d": ()}
    assert dict(flatten(nested, ".")) == {"a.b.0": 1, "a.b.1.c": None}
