"""Whatever becomes of MLflow, a federation goes on: it is told once, in one line."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedmore.coordinator.config.schema import FederationConfig, parse_config
from fedmore.coordinator.monitor import mlflow_tracker
from fedmore.coordinator.monitor.mlflow_tracker import URI, MlflowTracker

NAME = "town"
ROUND = {"kind": "experts", "clients": {"ana": {"loss": 2.5, "tokens": 640}}, "experts": {}}


def config() -> FederationConfig:
    return parse_config({"federation": {"name": NAME}, "base": {"model": "tiny"}}, "test")


def client_of(directory: Path):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{directory / mlflow_tracker.DATABASE}")


def experiment_deleted(directory: Path, _: pytest.MonkeyPatch) -> None:
    client = client_of(directory)
    client.delete_experiment(client.get_experiment_by_name(NAME).experiment_id)


def damaged(directory: Path, _: pytest.MonkeyPatch) -> None:
    (directory / mlflow_tracker.DATABASE).write_bytes(b"this is not a database" * 500)


def cut(directory: Path, _: pytest.MonkeyPatch) -> None:
    file = directory / mlflow_tracker.DATABASE
    os.truncate(file, file.stat().st_size // 3)


def a_folder_in_its_place(directory: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mlflow_tracker, "WAIT_S", 2.0)
    (directory / mlflow_tracker.DATABASE).unlink()
    (directory / mlflow_tracker.DATABASE).mkdir()


def unwritable(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Not by its mode, which does not hold root up: another process has locked it for good."""
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{directory / mlflow_tracker.DATABASE}", connect_args={})
    locked = engine.connect()
    locked.exec_driver_sql("PRAGMA locking_mode=EXCLUSIVE")
    locked.exec_driver_sql("BEGIN EXCLUSIVE")
    patch.setattr(mlflow_tracker, "WAIT_S", 2.0)
    patch.setattr(MlflowTracker, "held", (engine, locked), raising=False)  # until the test ends


def nobody_listens(_: Path, patch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        patch.setenv(URI, f"http://127.0.0.1:{free.getsockname()[1]}")
    patch.setattr(mlflow_tracker, "WAIT_S", 2.0)


def not_installed(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "mlflow.tracking", None)


FAULTS = (
    experiment_deleted, damaged, cut, unwritable, nobody_listens, not_installed,
    pytest.param(a_folder_in_its_place, marks=pytest.mark.slow),  # MLflow tries for minutes
)  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The database after one round."""
    directory = tmp_path_factory.mktemp("federation")
    live(directory, 1)
    return (directory / mlflow_tracker.DATABASE).read_bytes()


@pytest.fixture
def directory(template: bytes, tmp_path: Path) -> Path:
    (tmp_path / mlflow_tracker.DATABASE).write_bytes(template)
    return tmp_path


def live(directory: Path, *rounds: int) -> None:
    """What a coordinator calls in one life."""
    tracker = MlflowTracker(directory)
    tracker.client_step("ana", loss=4.0, tokens_per_s=50.0, tokens=64)
    tracker.start(config())
    for number in rounds:
        tracker.round(0, number, ROUND)
    tracker.evaluation({"bits_per_byte": {"legal": {"mean": 1.0}}})
    tracker.finish()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [r for r in caplog.records if r.name == mlflow_tracker.__name__]
    return [r.getMessage() for r in ours if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_goes_on_and_the_failure_is_told_once(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault,
) -> None:
    fault(directory, monkeypatch)
    live(directory, 1, 2, 3)
    [told] = warnings_of(caplog)
    assert told.startswith("MLflow (")
    assert told.endswith("; the federation goes on without")
    assert "\n" not in told
    if fault is not_installed:
        assert "pip install 'fedmore[coordinator]'" in told


def test_a_run_that_was_deleted_is_followed_by_another(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(directory)
    number = client.get_experiment_by_name(NAME).experiment_id
    [run] = client.search_runs([number])
    client.delete_run(run.info.run_id)
    live(directory, 1, 2)
    assert warnings_of(caplog) == []
    [fresh] = client.search_runs([number])
    assert fresh.info.run_id != run.info.run_id
    assert fresh.data.metrics["client/ana/round_loss"] == 2.5


def test_a_failure_that_passes_costs_only_what_was_then(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = mlflow_tracker._Run.round

    def busy_once(run, stage, number, metrics):
        if number == 1:
            raise OSError("database is locked")
        real(run, stage, number, metrics)

    monkeypatch.setattr(mlflow_tracker._Run, "round", busy_once)
    live(directory, 1, 2)
    assert len(warnings_of(caplog)) == 1
    client = client_of(directory)
    [run] = client.search_runs([client.get_experiment_by_name(NAME).experiment_id])
    assert "round.0.2" in run.data.tags


def test_a_server_that_says_nothing_is_not_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_tracker, "WAIT_S", 0.2)
    stuck = threading.Event()
    monkeypatch.setattr(mlflow_tracker._Run, "params", lambda *_: stuck.wait(60))
    live(directory, 2)
    assert "did not write everything within 0.2 s" in warnings_of(caplog)[0]
    stuck.set()


@pytest.mark.slow
def test_what_is_tracked_on_a_server_is_not_in_the_folder(tmp_path: Path) -> None:
    """MLFLOW_TRACKING_URI is read in a process of its own: MLflow keeps what it has read."""
    elsewhere = tmp_path / "elsewhere.db"
    code = (
        "import sys, pathlib, warnings; warnings.simplefilter('ignore')\n"
        "from fedmore.coordinator.config.schema import parse_config\n"
        "from fedmore.coordinator.monitor.mlflow_tracker import MlflowTracker\n"
        "config = parse_config({'federation': {'name': 'town'}, 'base': {'model': 'x'}}, 'test')\n"
        "tracker = MlflowTracker(pathlib.Path(sys.argv[1])); tracker.start(config)\n"
        "tracker.finish()\n"
    )
    paths = os.pathsep.join(part for part in sys.path if part)
    environment = os.environ | {"PYTHONPATH": paths, URI: f"sqlite:///{elsewhere}"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "could not write" not in done.stderr, json.dumps(done.stderr)
    assert elsewhere.exists()
    assert not (tmp_path / mlflow_tracker.DATABASE).exists()
