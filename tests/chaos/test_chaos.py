"""Two minutes of `chaos.py`; an hour of it is a command, see there."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MINUTES = float(os.environ.get("FEDMORE_CHAOS_MINUTES", "2"))
SEED = int(os.environ.get("FEDMORE_CHAOS_SEED", "0")) or random.SystemRandom().getrandbits(32)


def test_under_random_faults_every_run_finishes_with_the_same_digests():
    script = Path(__file__).with_name("chaos.py")
    command = [sys.executable, str(script), "--minutes", str(MINUTES), "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all with the digests of the undisturbed run" in done.stdout
