"""What either program writes is its owner's alone, whichever library writes it."""

import subprocess
import sys

import pytest

SCRIPT = """
import os
from fedmore.{program}.cli import main as cli
cli.app = lambda: print(oct(os.umask(0)))
cli.main()
"""


@pytest.mark.parametrize("program", ["client", "coordinator"])
def test_a_program_runs_with_a_closed_umask(program):
    script = SCRIPT.format(program=program)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, umask=0
    )
    assert done.stdout.strip() == "0o77"
