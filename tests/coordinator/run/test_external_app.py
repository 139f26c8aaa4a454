import io
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import ServerApp
from rich.console import Console
from typer.testing import CliRunner

from fedmore.coordinator.cli import main as cli
from fedmore.coordinator.config.schema import load_config, parse_config
from fedmore.coordinator.folder.create import create, new_config
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.layout import APP_LOG, APP_STATE
from fedmore.coordinator.monitor.status import status, status_view
from fedmore.coordinator.run.external_app import chosen, run_app
from fedmore.coordinator.store.state_keys import PORT
from fedmore.experts.errors import ConfigError, RoundError
from fedmore.protos.wire.records import loads


def app_of(main):
    app = ServerApp()
    app.main()(main)
    return app


@pytest.fixture
def config():
    return new_config(name="theirs", app="server:app", run_config={"lr": 0.5, "name": "x"})


def test_a_federation_of_an_app_has_nothing_of_our_plan(tmp_path, config):
    create(tmp_path / "f", config)
    text = (tmp_path / "f" / "federation.toml").read_text(encoding="utf-8")
    assert load_config(tmp_path / "f").federation == config.federation
    assert not any(f"[{section}" in text for section in ("base", "[stages", "router", "evaluation"))


@pytest.mark.parametrize(
    "option", [{"base": "b"}, {"domains": ("d",)}, {"languages": ("l",)}, {"public_text": "p"}]
)
def test_an_app_goes_with_no_option_of_our_plan(option):
    with pytest.raises(ConfigError, match="--app runs a Flower app instead of our plan"):
        new_config(name="theirs", app="server:app", **option)


def test_a_reference_is_checked_when_the_federation_is_made():
    with pytest.raises(ConfigError, match="write it as module:object"):
        new_config(name="theirs", app="server.py")


def test_the_command_line_replaces_app_and_values(tmp_path, config):
    create(tmp_path, config)
    with open_federation(tmp_path) as federation:
        assert chosen(federation, "", {}) is federation
        section = chosen(federation, "other:app", {"lr": 0.1}).config.federation
    assert section.app == "other:app"
    assert section.run_config == {"lr": 0.1, "name": "x"}


def test_a_federation_with_a_plan_takes_no_app(tmp_path, config):
    create(tmp_path, config)
    table = {"federation": {"name": "ours"}, "base": {"model": "b"}}
    with open_federation(tmp_path) as federation:
        ours = replace(federation, config=parse_config(table, "test"))
        with pytest.raises(ConfigError, match="has a plan of its own"):
            chosen(ours, "server:app", {})


def test_the_app_gets_its_config_and_its_state_and_log_are_kept(tmp_path, config):
    def main(grid, context):
        context.state["said"] = ConfigRecord(dict(context.run_config))
        logging.getLogger("flwr").info("round %d", 1)

    run_app(app_of(main), "server:app", None, config, tmp_path)
    assert loads((tmp_path / APP_STATE).read_bytes())["said"] == {"lr": 0.5, "name": "x"}
    assert "INFO round 1" in (tmp_path / APP_LOG).read_text(encoding="utf-8")


def test_what_an_app_raises_is_said_with_its_place(tmp_path, config):
    def main(grid, context):
        raise LookupError("no arrays")

    with pytest.raises(RoundError) as error:
        run_app(app_of(main), "server:app", None, config, tmp_path)
    here = Path(__file__).name
    assert str(error.value).startswith(f"the app server:app raised LookupError: no arrays ({here}:")


def test_chance_begins_at_the_seed(tmp_path, config):
    import random

    import numpy as np

    drawn = []

    def main(grid, context):
        drawn.append((random.random(), np.random.normal()))

    for _ in range(2):
        run_app(app_of(main), "server:app", None, config, tmp_path)
    assert drawn[0] == drawn[1]


def test_status_and_invite_are_about_the_app(tmp_path, config):
    create(tmp_path / "f", config)
    out = tmp_path / "ada.json"
    with open_federation(tmp_path / "f") as federation:
        federation.registry.set_state(PORT, 8470)
        console = Console(file=io.StringIO(), width=80)
        console.print(status_view(status(federation)))
    shown = console.file.getvalue()
    assert "Flower app server:app with lr=0.5, name='x'" in shown
    assert not any(word in shown for word in ("base", "stage"))
    found = CliRunner().invoke(cli.app, ["invite", str(tmp_path / "f"), "ada", "--out", str(out)])
    assert "client join ada.json --app MODULE:OBJECT" in found.output
    assert "--domain" not in found.output
