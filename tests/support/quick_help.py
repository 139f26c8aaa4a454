"""How long a program takes to answer `--help`, on a machine of any speed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LIMIT_S = 0.5
MOST = 2.0
"""Times the processor time of a bare typer program, where that alone is near the limit."""

BARE = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"


def help_answers_at_once(command: Sequence[str | Path]) -> bool:
    """Whether one of three tries takes under half a second, or little more than typer itself."""
    for _ in range(3):
        if cpu_seconds([*command, "--help"]) < LIMIT_S:
            return True
    bare = min(cpu_seconds([sys.executable, "-c", BARE]) for _ in range(2))
    return min(cpu_seconds([*command, "--help"]) for _ in range(2)) < MOST * bare


def cpu_seconds(command: Sequence[str | Path]) -> float:
    """Processor time of a command: it waits for nothing, and tests run beside each other."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime
