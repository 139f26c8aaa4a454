"""Shows the study on a terminal: all routers, and the outcomes of the claims."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

Show = Callable[[Mapping[str, Any]], str]
SHOWN = 4
"""Most figures of a claim in the table; the JSON has all."""


def _or_nothing(key: str, text: str) -> Show:
    return lambda r: "" if r[key] is None else format(r[key], text)


def with_interval(figure: Mapping[str, Any], text: str = ".3f") -> str:
    """Format a figure with its 95 % interval, such as `1.777 [1.765, 1.789]`."""
    if figure["mean"] is None:
        return ""
    ends = figure["ci95"] and ", ".join(format(end, text) for end in figure["ci95"])
    return format(figure["mean"], text) + (f" [{ends}]" if ends else "")


COLUMNS: tuple[tuple[str, Show], ...] = (
    ("k", lambda r: str(r["k"] or "all")),
    ("M", lambda r: str(r["samples"] or "")),
    ("trained at", lambda r: r["trained_at"] or ""),
    ("mean, 95 %", lambda r: with_interval({"mean": r["mean_bpb"], "ci95": r["ci95"]})),
    ("minus domains", lambda r: with_interval(r["minus_domain"], "+.3f")),
    ("gap closed", lambda r: with_interval(r["gap_closed"], ".0%")),
    ("mixed", _or_nothing("mixed_bpb", ".3f")),
    ("unseen", _or_nothing("unseen_bpb", ".3f")),
    ("ESS", _or_nothing("ess_mean", ".2f")),
    ("steps/s", _or_nothing("steps_per_s", ".2f")),
)


def routers_table(result: Mapping[str, Any]) -> Table:
    """A table of all routers, with the base and the oracle in its title."""
    title = f"Bits per byte; base {result['base_bpb']:.3f}, oracle {result['oracle_bpb']:.3f}"
    table = Table("router", title=title, box=None)
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for router in result["routers"]:
        table.add_row(router["name"], *(show(router) for _, show in COLUMNS))
    return table


def claims_table(claims: Sequence[Mapping[str, Any]]) -> Table:
    """A table of every claim with its outcome and its first figures."""
    table = Table("claim", "verdict", "of", "figure", "goal", box=None)
    table.title = "What was to be checked, each by its whole 95 % interval"
    for claim in claims:
        for number, row in enumerate(claim["figures"][:SHOWN] or [None]):
            first = (claim["claim"], claim["verdict"]) if number == 0 else ("", "")
            table.add_row(*first, *(_cells(row) if row else ()))
    return table


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["of"], with_interval(row), f"{row['goal']}: {row['verdict']}"
