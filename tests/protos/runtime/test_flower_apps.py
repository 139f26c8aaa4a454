import sys

import pytest
from flwr.serverapp import ServerApp

from fedmore.experts.errors import ConfigError
from fedmore.protos.runtime.flower_apps import load_app, published, values


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module where the program was started; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield lambda name, text: (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_an_app_is_found_where_the_program_was_started(module):
    module("their_app", "from flwr.serverapp import ServerApp\nclass box:\n    app = ServerApp()\n")
    assert isinstance(load_app("their_app:box.app", ServerApp), ServerApp)


@pytest.mark.parametrize(
    ("reference", "text", "said"),
    [
        ("their_app", "", "write it as module:object"),
        (":app", "", "write it as module:object"),
        ("no_such.module:app", "", "there is no module 'no_such' in"),
        ("their_app:app", "import no_such_library", "their_app needs 'no_such_library'"),
        ("their_app:app", "1 / 0", "importing it raised ZeroDivisionError: division by zero"),
        ("their_app:app", "", "the module their_app has no 'app'"),
        ("their_app:app", "app = 3", "that is a int, not a Flower ServerApp"),
    ],
)
def test_what_is_wrong_with_an_app_is_said_in_one_line(module, reference, text, said):
    module("their_app", text)
    with pytest.raises(ConfigError) as error:
        load_app(reference, ServerApp)
    assert said in str(error.value)
    assert str(error.value).startswith(f"--app {reference}: ")
    assert "\n" not in str(error.value)


def test_values_are_read_as_toml_or_else_as_text():
    pairs = ["lr=0.5", "rounds=3", "loud=true", 'name="3"', "path=/data/a b", "empty="]
    expected = {"lr": 0.5, "rounds": 3, "loud": True, "name": "3", "path": "/data/a b", "empty": ""}
    found = values(pairs, "--run-config")
    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize("pair", ["lr", "=3", "list=[1, 2]", "at=2026-01-01"])
def test_what_is_not_a_pair_is_refused(pair):
    with pytest.raises(ConfigError, match="--node-config"):
        values([pair], "--node-config")


PYPROJECT = """
[tool.flwr.app.components]
serverapp = "example.server_app:app"
[tool.flwr.app.config]
num-server-rounds = 3
lr = 0.1
[tool.flwr.app.config.model]
name = "tiny"
"""


def test_the_values_that_an_app_is_published_with(tmp_path):
    assert published("example.server_app:app", tmp_path) == {}
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT, encoding="utf-8")
    assert published("example.server_app:app", tmp_path) == {
        "num-server-rounds": 3, "lr": 0.1, "model.name": "tiny",
    }  # fmt: skip
    assert published("another:app", tmp_path) == {}
    path.write_text("[tool", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"pyproject\.toml: cannot be read"):
        published("example.server_app:app", tmp_path)
