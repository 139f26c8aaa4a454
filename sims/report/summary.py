"""Prints the end of a run: the numbers, the goals and the paths of the files."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedmore.sims.report.build import Written
from fedmore.sims.report.schema import Interval, Report
from fedmore.sims.report.verdict import Verdict, gain_kept

_STYLES = {"met": "green", "not met": "bold red", "undecided": "yellow", "not measured": "dim"}
_MARKS = {"met": "✔", "not met": "✘", "undecided": "?", "not measured": "–"}


def summary_table(written: Written) -> Group:
    """Bits per byte, goals and files, for a rich console."""
    parts: list[RenderableType] = [
        _scores(written.report),
        Text(),
        _goals(written.verdicts),
        Text(),
        _files(written),
    ]
    return Group(*parts)


def _scores(report: Report) -> Table:
    table = Table(title="Bits per byte on held-out text (lower is better)", title_justify="left")
    table.add_column("text")
    for heading in ("base", "own expert", "mixture", "gain kept"):
        table.add_column(heading, justify="right")
    for text, scores in report.bits_per_byte.items():
        share = gain_kept(scores)
        own = "–" if scores.own_expert is None else _interval(scores.own_expert)
        kept = "–" if share is None else f"{share:.0%}"
        table.add_row(Text(text), _interval(scores.base), own, _interval(scores.mixture), kept)
    return table


def _interval(value: Interval) -> str:
    if value.ci95 is None:
        return f"{value.mean:.3f}"
    half = (value.ci95[1] - value.ci95[0]) / 2
    return f"{value.mean:.3f} ± {half:.3f}"


def _goals(verdicts: tuple[Verdict, ...]) -> Table:
    table = Table(title="Goals", title_justify="left")
    table.add_column("goal")
    table.add_column("measured")
    table.add_column("result", no_wrap=True)
    for each in verdicts:
        result = Text(f"{_MARKS[each.word]} {each.word}", style=_STYLES[each.word])
        table.add_row(Text(each.goal), Text(each.measured), result)
    return table


def _files(written: Written) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("report", Text(str(written.html)))
    table.add_row("numbers", Text(str(written.json)))
    if written.plots:
        table.add_row("plots", Text(str(written.plots[0].parent)))
    return table
