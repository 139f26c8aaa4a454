import subprocess
import sys

import pytest

from fedmore.sims.catalogue import SCENARIOS, STUDIES

LIGHT = """
import sys
from fedmore.sims.cli import app
try:
    app({arguments!r})
except SystemExit:
    pass
heavy = {{"torch", "flwr", "transformers", "mlflow", "grpc", "pydantic"}} & set(sys.modules)
raise SystemExit(f"imported {{heavy}}" if heavy else 0)
"""


def fedmore(*arguments, cwd=None):
    command = [sys.executable, "-m", "fedmore.sims.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("arguments", [["--help"], ["sim", "--help"], ["sim", "run", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = LIGHT.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_list_names_every_scenario_and_study():
    done = fedmore("sim", "list")
    assert done.returncode == 0, done.stderr
    assert [name for name in SCENARIOS | STUDIES if name not in done.stdout] == []


def test_errors_are_one_line_and_leave_nothing(tmp_path):
    unknown = fedmore("sim", "run", "nothing", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "there are quickstart, routing, smoke" in unknown.stderr
    setting = fedmore("sim", "run", "smoke", "--set", "stages.7.steps=1", cwd=tmp_path)
    assert setting.returncode == 2
    assert "stages.7.steps" in setting.stderr
    assert "Traceback" not in unknown.stderr + setting.stderr
    assert list(tmp_path.iterdir()) == []
