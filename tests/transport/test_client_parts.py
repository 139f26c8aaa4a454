"""The small parts of the client: progress, imports."""

import subprocess
import sys

import pytest

from fedmore.client.training.progress import report, reporting, throttled
from fedmore.strategies.events import Report


def test_reports_go_to_the_sink_and_nowhere_without_one():
    report(1, 2, 0.5, 10.0, 64)
    heard = []
    with reporting(heard.append):
        report(1, 2, 0.5, 10.0, 64)
    report(2, 2, 0.5, 10.0, 64)
    assert heard == [Report(1, 2, 0.5, 10.0, 64)]


def test_throttling_keeps_the_first_the_last_and_two_a_second():
    now, heard = [0.0], []
    sink = throttled(lambda r: heard.append(r.step), clock=lambda: now[0])
    for step in range(1, 101):
        sink(Report(step, 100, 0, 0, 0))
        now[0] += 0.1
    assert heard[0] == 1
    assert heard[-1] == 100
    assert len(heard) <= 22


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("fedmore.coordinator.rpc.server", ("torch", "transformers", "fedmore.client")),
        ("fedmore.client.session.runner", ("torch", "transformers", "fedmore.coordinator")),
    ],
)
def test_neither_end_imports_torch_or_the_other(module, others):
    code = f"import sys, {module}; sys.exit(' '.join(m for m in {others} if m in sys.modules) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
