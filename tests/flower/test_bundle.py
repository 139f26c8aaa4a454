"""`[tool.flwr.app]`: what Flower makes of this project."""

import io
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedmore.client.flower_app import check_base, node_config
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.protos.runtime.flower_apps import load_app
from fedmore.sims.data.tiny_model import make_tiny_base

ROOT = Path(__file__).parents[2]
SAID = {"name": "ada", "domain": "legal", "data": "text", "base": "base", "device": "cpu"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own
def test_the_bundle_holds_no_code(tmp_path):
    from flwr.cli.build import build_fab_from_disk

    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "client").mkdir()
    shutil.copy(ROOT / "client" / "client_app.py", tmp_path / "client" / "client_app.py")
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(tmp_path))) as bundle:
        assert set(bundle.namelist()) == {"pyproject.toml", "LICENSE", ".info/CONTENT"}


def test_it_names_our_two_apps():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    components = table["tool"]["flwr"]["app"]["components"]
    load_app(components["serverapp"], ServerApp)
    load_app(components["clientapp"], ClientApp)


def test_a_supernode_says_what_client_join_would_be_told():
    found = node_config(SAID | {"rank": 3, "state": "here"})
    assert (found["kind"], found["target"], found["rank"]) == ("expert", "legal", 3)
    assert (found["dtype"], found["quantization"], found["state"]) == ("auto", "none", "here")
    assert "domain" not in found
    adapter = node_config({k: v for k, v in SAID.items() if k != "domain"} | {"language": "gl"})
    assert (adapter["kind"], adapter["target"], adapter["rank"]) == ("adapter", "gl", 8)


@pytest.mark.parametrize("key", ["name", "data", "base", "domain"])
def test_what_a_supernode_does_not_say_is_named(key):
    with pytest.raises(ConfigError, match=key):
        node_config({k: v for k, v in SAID.items() if k != key})


def test_another_base_is_refused_where_the_run_names_one(tmp_path):
    base = make_tiny_base(tmp_path / "tiny")
    check_base(str(base), "")
    with pytest.raises(BaseError, match="has fingerprint"):
        check_base(str(base), "0" * 64)
