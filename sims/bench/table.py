"""Prints measurements as a table for people or as JSON for programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedmore.sims.bench.machine import Machine, machine

WIDTH = 160  # characters of a table in a file or a pipe

Row = dict[str, Any]  # all rows of a list have the same keys


def publish(rows: Sequence[Row], command: str, *, as_json: bool, out: Path | None) -> None:
    """Print `rows` as a table headed by the machine, or as a JSON list; write `out` if given."""
    here = machine()
    if out is not None:
        content = {"command": command, "machine": here, "results": list(rows)}
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(list(rows), indent=1))  # noqa: T201
    else:
        console = Console()
        _show(rows, here, console if console.is_terminal else Console(width=WIDTH))


def _show(rows: Sequence[Row], here: Machine, console: Console) -> None:
    console.print(", ".join(f"{key} {value}" for key, value in here.items()), soft_wrap=True)
    table = Table(*(key.replace("_", " ") for key in (rows[0] if rows else ())), box=None)
    for row in rows:
        table.add_row(*map(_cell, row.values()), style=None if _reached(row) else "yellow")
    console.print(table)


def _reached(row: Row) -> bool:
    ratio, goal = row.get("ratio"), row.get("goal")
    return bool(row.get("verified", True)) and (ratio is None or goal is None or ratio >= goal)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
