"""Fetches everything for a scenario that may need the network."""

import tempfile
from pathlib import Path

from rich.console import Console

from fedmore.sims.scenarios.scenario import Scenario


def fetch(scenario: Scenario, console: Console) -> None:
    """Make the scenario's texts and base and print them; raises `DataError` or `BaseError`."""
    with tempfile.TemporaryDirectory(prefix="fedmore-") as scratch:
        for name in scenario.texts():
            with console.status(f"text {name}"):
                files = scenario.text(name, Path(scratch))
            size = (files.train.stat().st_size + files.heldout.stat().st_size) / 1e6
            console.print(f"text {name}: {size:.1f} MB", highlight=False)
        with console.status("base model"):
            base = scenario.base(Path(scratch))
        console.print(f"base {base.name}", highlight=False)
