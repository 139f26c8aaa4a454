"""An owner's machine needs nothing of the coordinator's tracking."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import importlib, pkgutil, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("mlflow"):
            raise ModuleNotFoundError(f"no {name} here", name=name)
sys.meta_path.insert(0, Blocked())
import fedmore.client
names = [m.name for m in pkgutil.walk_packages(fedmore.client.__path__, "fedmore.client.")
         if not m.name.endswith("__main__")]
assert len(names) > 60, names
for name in names:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.startswith("mlflow")]
print("imported", len(names))
"""


def test_every_module_of_the_client_is_imported_without_mlflow() -> None:
    paths = os.pathsep.join(part for part in sys.path if part)
    command = [sys.executable, "-c", CODE]
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported")


def test_mlflow_is_an_extra_of_the_coordinators() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [line for line in table["dependencies"] if line.startswith("mlflow")]
    extra = table["optional-dependencies"]["coordinator"]
    assert any(line.startswith("mlflow") for line in extra)
