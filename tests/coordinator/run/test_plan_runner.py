"""The one place where a plan is run: the phase that it leaves, and how the tracked run ends."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.monitor.mlflow_tracker import MlflowTracker
from fedmore.coordinator.monitor.tracker import NullTracker
from fedmore.coordinator.run.plan import keep_all
from fedmore.coordinator.run.plan_runner import noting_failure, observer_of, run_plan, tracker_of
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import (
    FAILED,
    FAILURE,
    FINISHED,
    INTERRUPTED,
    PHASE,
    RECOVERY,
    RUNNING,
)
from fedmore.experts.errors import RoundError, StoreError


class Noting(NullTracker):
    """A tracker that notes how its run began and ended."""

    def __init__(self):
        self.notes = []

    def start(self, config):
        self.notes.append(("start", config.federation.name))

    def finish(self, status="FINISHED"):
        self.notes.append(("finish", status))


@pytest.fixture
def federation(tmp_path):
    table = {
        "federation": {"name": "test", "clients": 3},
        "base": {"model": "somewhere"},
        "stages": [{"kind": "experts", "rounds": 2}],
    }
    with Registry.open(tmp_path) as registry:
        yield Federation(tmp_path, parse_config(table, "test"), registry, Store(tmp_path / "blobs"))


def test_the_plan_gets_all_that_there_is_and_the_end_comes_in_order(federation):
    tracker, given, moments = Noting(), {}, []

    def plan(**parts):
        given.update(parts)
        moments.append(federation.registry.get_state(PHASE))

    def on_done():
        moments.append(federation.registry.get_state(PHASE))
        moments.append(list(tracker.notes))

    run_plan(federation, None, tracker, print, plan, on_done=on_done)
    started = ("start", "test")
    assert given == {
        "federation": federation, "grid": None, "tracker": tracker, "observer": print,
        "settle": keep_all,
    }  # fmt: skip
    assert moments == [RUNNING, FINISHED, [started]]
    assert tracker.notes == [started, ("finish", "FINISHED")]


def test_with_recovery_rounds_ahead_a_plan_is_not_finished(federation):
    entry = {"planned": 2, "rounds": 2, "experts": ["legal"]}
    federation.registry.set_state(RECOVERY, {"experts": entry})
    run_plan(federation, None, Noting(), print, lambda **_: None)
    assert federation.registry.get_state(PHASE) == INTERRUPTED


@pytest.mark.parametrize(
    ("error", "before", "phase", "failure", "status", "told"),
    [
        (RoundError("nobody came"), RUNNING, FAILED, "nobody came", "FAILED", ["nobody came"]),
        (KeyboardInterrupt(), RUNNING, INTERRUPTED, None, "KILLED", ["stopped"]),
        (StoreError("disk is full"), FINISHED, FINISHED, None, "FAILED", []),
    ],
)
def test_a_failure_is_noted(federation, error, before, phase, failure, status, told):
    registry, tracker, heard = federation.registry, Noting(), []
    registry.set_state(PHASE, before)
    with pytest.raises(type(error)), noting_failure(federation, tracker, heard.append):
        raise error
    assert registry.get_state(PHASE) == phase
    assert (registry.get_state(FAILURE) or "").endswith(failure or "")
    assert [text[-len(end) :] for text, end in zip(heard, told, strict=True)] == told
    assert tracker.notes == [("finish", status)]


def test_the_first_error_is_the_one_to_report(federation):
    class Broken(Noting):
        def finish(self, status="FINISHED"):
            raise StoreError("no room for metrics")

    with pytest.raises(RoundError, match="nobody came"), noting_failure(federation, Broken()):
        raise RoundError("nobody came")


def test_a_foreign_app_is_not_tracked(federation):
    app = replace(federation.config.federation, app="server:app")
    theirs = federation.with_config(replace(federation.config, federation=app))
    assert isinstance(tracker_of(theirs), NullTracker)
    assert isinstance(tracker_of(federation), MlflowTracker)


@pytest.mark.parametrize(("expected", "shown"), [(None, 3), (1, 1)])
def test_the_observer_expects_the_configured_clients_unless_told(federation, expected, shown):
    observer = observer_of(federation, Console(file=io.StringIO()), expected)
    assert (observer.board.name, observer.board.expected) == ("test", shown)
