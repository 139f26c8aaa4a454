"""Apps in the shape of Flower's quickstarts: their clients find the coordinator's run config."""

import contextlib
import importlib
import os
import sys
import warnings
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from test_programs import Programs

from fedmore.client.external_app import RunConfig, make_handler
from fedmore.coordinator.folder.create import create, new_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.monitor.tracker import NullTracker
from fedmore.coordinator.run.external_app import make_plan
from fedmore.coordinator.run.lifecycle import info_of
from fedmore.coordinator.run.plan import keep_all
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import RoundError
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.wire.flower_compat import RUN
from fedmore.sims.engines.processes import Processes, quiet_environment
from fedmore.sims.engines.workers import Node, Workers

APPS = Path(__file__).parent / "quickstarts"
NODES = 2
CONFIGS = {
    "torch_app": {
        "num-server-rounds": 2, "fraction-evaluate": 0.5, "local-epochs": 1,
        "learning-rate": 0.1, "batch-size": 8,
    },
    "tabular_app": {"num-server-rounds": 2, "penalty": "l2", "min-available-clients": 2},
    "numpy_app": {
        "num-server-rounds": 2, "penalty": "l2", "local-epochs": 3, "min-available-clients": 2,
        "fraction-train": 1.0, "fraction-evaluate": 1.0,
    },
    "text_app": {
        "num-server-rounds": 1, "model-name": "tiny-bert", "fraction-fit": 1.0,
        "fraction-evaluate": 0.1,
    },
}  # fmt: skip


class Folder:
    """A federation of an app in this process: engine `local`, the real plan and handlers."""

    def __init__(self, folder, app, run_config):
        self.app, self.folder = app, folder
        self.config = new_config(
            name="theirs", app=f"{app}:server_app", clients=NODES, run_config=run_config
        )
        self.directory = folder / "federation"
        create(self.directory, self.config)
        self.said = []

    def run(self, client_app=None):
        app = client_app or importlib.import_module(self.app).client_app
        queue, store = TaskQueue(), Store(self.directory / "blobs")
        with Registry.open(self.directory) as registry:
            nodes = dict(self.node(registry, part, app) for part in range(NODES))
            with Workers(queue, nodes, lambda m, c: c.run_config["handler"](m), lambda _: None):
                federation = Federation(self.directory, self.config, registry, store)
                make_plan(self.config.federation.app)(
                    federation=federation,
                    grid=TaskGrid(queue, names=registry.name_of),
                    tracker=NullTracker(),
                    observer=lambda _: None,
                    settle=keep_all,
                )

    def node(self, registry, part, app):
        name = f"n{part}"
        member = registry.enrol(registry.invite(name), name, "app", "", 0)
        heard = RunConfig(self.said.append)
        heard.hear(FederationInfo.from_proto(info_of(self.config).to_proto()))
        config = {"partition-id": part, "num-partitions": NODES}
        handler = make_handler(app, member.node_id, config, self.folder / name, heard.values)
        context = Context(RUN, member.node_id, {}, RecordDict(), {"handler": handler})
        return member.node_id, Node(name, context)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """The folder of the apps is where the programs are called; Flower warns of its older ways."""
    monkeypatch.syspath_prepend(str(APPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
    for name in CONFIGS:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("app", CONFIGS)
def test_a_quickstart_runs_as_published(tmp_path, app):
    out = tmp_path / "out"
    folder = Folder(tmp_path, app, CONFIGS[app] | {"out": str(out)})
    folder.run()
    assert out.stat().st_size
    log = (folder.directory / "app.log").read_text(encoding="utf-8")
    assert "0 failures" in log
    assert len(folder.said) == NODES
    assert "num-server-rounds" in folder.said[0]


@pytest.mark.parametrize("app", CONFIGS)
def test_an_app_whose_every_task_failed_has_failed(tmp_path, app):
    """Its clients know none of the values that it was published with."""
    out = tmp_path / "out"
    folder = Folder(tmp_path, app, CONFIGS[app] | {"out": str(out)})
    broken = ClientApp()

    @broken.train()
    def train(_message, context):
        context.run_config["no such key"]

    @broken.evaluate()
    def evaluate(_message, _context):
        raise ArithmeticError("a loss of nothing")

    with pytest.raises(
        RoundError, match=r"every task of the app failed: n0: KeyError: .*; n1: KeyError"
    ):
        folder.run(broken)


def test_an_app_without_evaluation_is_warned_of_only(tmp_path, caplog):
    folder = Folder(tmp_path, "torch_app", CONFIGS["torch_app"] | {"out": str(tmp_path / "out")})
    app = ClientApp()
    app.train()(importlib.import_module("torch_app").train)
    folder.run(app)
    assert "nobody answered 'evaluate': n" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("app", CONFIGS)
def test_a_quickstart_runs_in_the_real_programs(tmp_path, app):
    environment = quiet_environment() | {
        "PYTHONPATH": f"{APPS}{os.pathsep}{APPS.parents[2]}/.editable"
    }
    with Processes(environment) as processes:
        programs = Programs(tmp_path, processes, environment)
        with contextlib.chdir(APPS):
            options = [f"{key}={value}" for key, value in CONFIGS[app].items()]
            pairs = [part for pair in options for part in ("--run-config", pair)]
            programs.init(*pairs, app=f"{app}:server_app", clients=NODES)
            coordinator = programs.coordinate()
            parts = "num-partitions=2"
            clients = [programs.join(node, parts, app=f"{app}:client_app") for node in range(NODES)]
            programs.wait(coordinator)
            for client in clients:
                programs.wait(client, 60)
                assert "run config from the coordinator" in client.tail(40)
    assert programs.out.stat().st_size
