"""Plots of the models' results: bits per byte, forgetting, routing."""

from pathlib import Path

from matplotlib.axes import Axes

from fedmore.sims.report.schema import Interval
from fedmore.sims.report.study import Study
from fedmore.sims.report.style import (
    BASE,
    BEHIND,
    CYCLE,
    INK,
    MARKERS,
    MIXTURE,
    OWN,
    canvas,
    end_labels,
)
from fedmore.sims.report.verdict import signed

_SERIES = (("base", BASE, "o"), ("own expert", OWN, "s"), ("mixture", MIXTURE, "D"))


def draw_scores(study: Study, path: Path) -> None:
    """Draw bits per byte by text and, if known, the paired change against the base beside it."""
    scores = study.report.bits_per_byte
    title, subtitle = "Bits per byte on held-out text", "mean over documents and its 95 % interval"
    with canvas(path, title, f"lower is better · {subtitle}") as figure:
        if study.paired:
            left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
            _changes(right, study)
        else:
            left = figure.subplots()
        for place, (label, colour, marker) in enumerate(_SERIES):
            every = [(s.base, s.own_expert, s.mixture)[place] for s in scores.values()]
            _whiskers(left, every, (place - 1) * 0.22, label, colour, marker)
        left.set_yticks(range(len(scores)), list(scores))
        left.set_ylim(len(scores) - 0.5, -0.5)
        left.grid(visible=False, axis="y")
        left.set_xlabel("bits per byte")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.99, 0.985), ncols=3)


def _changes(axes: Axes, study: Study) -> None:
    """Draw the paired differences, which are without the variation between documents."""
    known = [study.paired.get(text) for text in study.report.bits_per_byte]
    own = [change.own_expert if change else None for change in known]
    mixture = [change.mixture if change else None for change in known]
    axes.axvline(0, color=BASE, linewidth=1.2)
    axes.margins(x=0.12)
    _whiskers(axes, own, 0.0, "own expert", OWN, "s", told=True)
    _whiskers(axes, mixture, 0.22, "mixture", MIXTURE, "D", told=True)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("change against the base, paired")
    axes.tick_params(axis="y", labelleft=False)


def _whiskers(
    axes: Axes,
    every: list[Interval | None],
    shift: float,
    label: str,
    colour: str,
    marker: str,
    *,
    told: bool = False,
) -> None:
    """Draw one series: a mark and an interval for each text with a value.

    Args:
        axes: where to draw.
        every: the interval of each text in bits per byte, or None.
        shift: vertical offset of the series, in rows.
        label: its name in the legend.
        colour: its colour.
        marker: its marker.
        told: whether to write the values.

    """
    rows = [(y + shift, i.mean, i.ci95 or (i.mean, i.mean)) for y, i in enumerate(every) if i]
    axes.errorbar(
        [mean for _, mean, _ in rows],
        [y for y, _, _ in rows],
        xerr=[
            [mean - low for _, mean, (low, _) in rows],
            [high - mean for _, mean, (_, high) in rows],
        ],
        fmt=marker,
        color=colour,
        elinewidth=2,
        label=label,
    )
    for y, mean, (_, high) in rows if told else []:
        note = axes.annotate(
            signed(mean),
            (high, y),
            (5, 0),
            textcoords="offset points",
            fontsize=8.5,
            va="center",
            color=colour,
            annotation_clip=False,
        )
        note.set_bbox(BEHIND)


def draw_forgetting(study: Study, path: Path) -> None:
    """Draw the change of each text against the base, after each stage."""
    stages = study.report.forgetting
    subtitle = "change of bits per byte against the base · below 0 is better than the base"
    with canvas(path, "What each stage taught, and what it cost the others", subtitle) as figure:
        axes = figure.subplots()
        axes.axhline(0, color=BASE, linewidth=1.2)
        labels = []
        for number, text in enumerate(_texts(study)):
            base = study.report.bits_per_byte[text].base.mean
            seen = [(x + 1, s.bits_per_byte.get(text)) for x, s in enumerate(stages)]
            points = [(0, 0.0)] + [(x, i.mean - base) for x, i in seen if i]
            colour, marker = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker)
            last = [i.mean for _, i in seen if i][-1]
            labels.append((points[-1][1], f"{text}  {base:.3f} → {last:.3f}", colour))
        ticks = ["base", *(f"after {stage.stage}" for stage in stages)]
        axes.set_xticks(range(len(ticks)), ticks)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("Δ bits per byte")
        axes.margins(y=0.1)
        axes.set_xlim(-0.15, len(stages) + 0.05)
        end_labels(axes, len(stages), labels)


def _texts(study: Study) -> list[str]:
    """Texts that any stage measured, in the order of the evaluation."""
    seen = {text for stage in study.report.forgetting for text in stage.bits_per_byte}
    return [text for text in study.report.bits_per_byte if text in seen]


def draw_routing(study: Study, path: Path) -> None:
    """Draw each expert's share of the gate, for each text."""
    texts = list(study.routing)
    experts = list(dict.fromkeys(e for gates in study.routing.values() for e in gates))
    gates = [[study.routing[t].get(e, 0.0) for e in experts] for t in texts]
    subtitle = "mean gate over the tokens of each held-out text and all layers"
    with canvas(path, "Which expert works on which text", subtitle) as figure:
        axes = figure.subplots()
        top = max(1.0, *(g for row in gates for g in row))
        axes.imshow(gates, cmap="Blues", vmin=0, vmax=top, aspect="auto")
        for y, row in enumerate(gates):
            for x, gate in enumerate(row):
                colour = "white" if gate > 0.55 * top else INK
                axes.text(x, y, f"{gate:.2f}", ha="center", va="center", color=colour, fontsize=12)
        axes.set_xticks(range(len(experts)), experts)
        axes.set_yticks(range(len(texts)), texts)
        axes.set_xlabel("expert")
        axes.set_ylabel("held-out text")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
