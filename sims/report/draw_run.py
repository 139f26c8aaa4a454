"""Plots of the run: traffic, training loss, aggregation error."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fedmore.experts.spec import rank_name
from fedmore.sims.report.schema import Client
from fedmore.sims.report.study import BYTES_FP32, Round, Study
from fedmore.sims.report.style import (
    BASE,
    CYCLE,
    MARKERS,
    MIXTURE,
    OWN,
    SOFT,
    canvas,
    end_labels,
    human_bytes,
)
from fedmore.sims.report.verdict import ROUNDING

ALL = "all clients"
_COUNTED = {"socket": "counted at the socket", "payload": "payload of the messages"}
_FRAMING = {"socket": "framing included", "payload": "without framing: no socket was there"}
_OTHERS = (("same numbers in float32", OWN, "s"), ("whole model in float32", BASE, "o"))


def draw_traffic(study: Study, path: Path) -> None:
    """Draw the bytes that each client sent, with two other ways of sending them; log scale."""
    rows = [(c.name, _ways(study, c)) for c in study.report.clients]
    traffic = study.report.traffic
    totals = (traffic.bytes_up, traffic.bytes_up_if_fp32, traffic.bytes_up_if_full_model)
    rows.append((ALL, totals))
    framing = _FRAMING[traffic.counted]
    subtitle = f"from each client to the coordinator, all rounds, {framing} · log scale"
    shown = ((_COUNTED[traffic.counted], MIXTURE, "D"), *_OTHERS)
    with canvas(path, "Bytes sent up", subtitle) as figure:
        axes = figure.subplots()
        for y, (_, ways) in enumerate(rows):
            _dumbbell(axes, y, ways)
        for place, (label, colour, marker) in enumerate(shown):
            known = [(w[place], y) for y, (_, w) in enumerate(rows) if w[place]]
            if known:
                axes.plot(*zip(*known, strict=True), marker, color=colour, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda count, _: human_bytes(count))
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.get_yticklabels()[-1].set_fontweight("bold")
        axes.set_ylim(len(rows) - 0.5, -0.6)
        axes.margins(x=0.08)
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=3)


def _ways(study: Study, client: Client) -> tuple[int | None, int, int]:
    """One client's bytes up: counted, the same numbers in float32, a whole model each round."""
    rounds = [r.clients[client.name] for r in study.rounds if client.name in r.clients]
    numbers = sum(each.numbers for each in rounds)
    return (
        client.bytes_up,
        BYTES_FP32 * numbers,
        BYTES_FP32 * study.report.base.params * len(rounds),
    )


def _dumbbell(axes: Axes, y: int, ways: Sequence[int | None]) -> None:
    """Draw the line between the ways, with the value of each and the ratio to ours."""
    known = [way for way in ways if way]
    if not known:
        return
    axes.plot([min(known), max(known)], [y, y], color="#c4cad1", linewidth=3, zorder=1)
    for value in known:
        axes.annotate(
            human_bytes(value),
            (value, y),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    counted, fp32 = ways[0], ways[1]
    if counted and fp32:
        axes.annotate(
            f"{fp32 / counted:.1f} times",
            ((counted * fp32) ** 0.5, y),
            (0, -5),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            color=SOFT,
        )


def draw_loss(study: Study, path: Path) -> None:
    """Draw the mean training loss of each client in each round."""
    subtitle = "nats per token, mean over the round · each client trains in its own stage"
    with canvas(path, "Training loss of every client", subtitle) as figure:
        axes = figure.subplots()
        labels = []
        for number, client in enumerate(study.report.clients):
            points = [
                (x, loss)
                for x, each in enumerate(study.rounds)
                if (loss := _loss(each, client.name)) is not None
            ]
            if not points:
                continue
            colour, marker = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker)
            text = f"{client.name} · {client.target}, rank {rank_name(client.rank)}"
            labels.append((points[-1], text, colour))
        _round_axis(axes, study.rounds)
        axes.set_ylabel("training loss")
        axes.margins(y=0.12)
        for x in sorted({point[0] for point, _, _ in labels}):
            end_labels(axes, x, [(p[1], text, colour) for p, text, colour in labels if p[0] == x])


def _loss(each: Round, name: str) -> float | None:
    return each.clients[name].loss if name in each.clients else None


def _round_axis(axes: Axes, rounds: Sequence[Round]) -> None:
    """Put rounds on the x axis in order of the plan, with a thin line between stages."""
    axes.set_xticks(range(len(rounds)), [f"{r.kind}\nround {r.round}" for r in rounds])
    axes.grid(visible=False, axis="x")
    for x in range(1, len(rounds)):
        if rounds[x].stage != rounds[x - 1].stage:
            axes.axvline(x - 0.5, color="#c4cad1", linewidth=1)


def draw_aggregation(study: Study, path: Path) -> None:
    """Draw the relative error of each aggregate against the exact weighted sum, by round."""
    subtitle = "relative Frobenius error against the exact weighted sum of what the clients sent"
    with canvas(path, "Aggregation error", subtitle) as figure:
        axes = figure.subplots()
        axes.set_yscale("log")
        labels: dict[int, list[tuple[float, str, str]]] = {}
        for number, expert in enumerate(study.report.experts):
            points = _errors(study.rounds, expert.name)
            if not points:
                continue
            colour, marker = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker)
            text = f"{expert.name}, rank {rank_name(expert.rank)}"
            labels.setdefault(points[-1][0], []).append((points[-1][1], text, colour))
        axes.axhline(ROUNDING, color=SOFT, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"goal: below {ROUNDING:.0e}",
            (0, ROUNDING),
            (0, 5),
            textcoords="offset points",
            color=SOFT,
        )
        _round_axis(axes, study.rounds)
        axes.set_ylabel("relative error, log scale")
        axes.yaxis.set_major_formatter(lambda error, _: f"{error:.0e}")
        for x, ends in labels.items():
            end_labels(axes, x, ends)


def _errors(rounds: Sequence[Round], name: str) -> list[tuple[int, float]]:
    """(round, error) of one expert, without errors of exactly 0, which a log scale cannot show."""
    found = [
        (x, each.experts[name].aggregation_error)
        for x, each in enumerate(rounds)
        if name in each.experts
    ]
    return [(x, error) for x, error in found if error]
