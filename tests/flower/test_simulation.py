"""What `direct.py` computes is what Flower's own in-process run does, in Ray."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from direct import DirectGrid
from stock import NODES, client_app, every_case

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def environment():
    """The script imports what lies beside it, which `make` does not allow."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"} | QUIET


@pytest.mark.slow
def test_flowers_simulation_gives_the_same(tmp_path):
    """One start of Ray for all cases."""
    out, log = tmp_path / "found.json", tmp_path / "log"
    script = Path(__file__).with_name("simulate.py")
    with tempfile.TemporaryDirectory(prefix="ray-") as scratch, log.open("wb") as output:
        command = [sys.executable, str(script), str(out), scratch]
        ended = subprocess.run(
            command, env=environment(), stdout=output, stderr=output, timeout=240
        )
    assert ended.returncode == 0, log.read_text(encoding="utf-8")[-2000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    expected = every_case(DirectGrid(client_app, NODES))
    assert [case for case in expected if expected[case] != found[case]] == []
