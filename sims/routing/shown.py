"""The study on a terminal: all routers, and what became of the claims."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

Show = Callable[[Mapping[str, Any]], str]


def _or_nothing(key: str, text: str) -> Show:
    return lambda r: "" if r[key] is None else format(r[key], text)


def _interval(router: Mapping[str, Any]) -> str:
    return "" if router["ci95"] is None else "{:.3f} to {:.3f}".format(*router["ci95"])


COLUMNS: tuple[tuple[str, Show], ...] = (
    ("k", lambda r: str(r["k"] or "all")),
    ("M", lambda r: str(r["samples"] or "")),
    ("trained at", lambda r: r["trained_at"] or ""),
    ("mean", _or_nothing("mean_bpb", ".3f")),
    ("95 %", _interval),
    ("gap closed", _or_nothing("gap_closed", ".0%")),
    ("mixed", _or_nothing("mixed_bpb", ".3f")),
    ("unseen", _or_nothing("unseen_bpb", ".3f")),
    ("ESS", _or_nothing("ess_mean", ".2f")),
    ("steps/s", _or_nothing("steps_per_s", ".2f")),
)


def routers_table(result: Mapping[str, Any]) -> Table:
    """All routers, with the base and the oracle above."""
    title = f"Bits per byte; base {result['base_bpb']:.3f}, oracle {result['oracle_bpb']:.3f}"
    table = Table("router", title=title, box=None)
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for router in result["routers"]:
        table.add_row(router["name"], *(show(router) for _, show in COLUMNS))
    return table


def claims_table(result: Mapping[str, Any]) -> Table:
    """Every claim, and whether the figures bear it out."""
    table = Table("claim", "", title="What was to be checked", box=None)
    for row in result["claims"]:
        table.add_row(row["claim"], "met" if row["met"] else "not met")
    return table
