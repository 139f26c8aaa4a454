"""The style of all plots, with colours that colour-blind readers can tell apart.

Colours are Okabe and Ito's, some a little darker so that coloured text is readable. A subject has
one colour in all plots: the base is grey, an own expert blue, the mixture vermilion. Lines also
carry their names, so colour is never the only sign.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fedmore.coordinator.generation.colours import COLOURS

BASE, OWN, MIXTURE = "#6b6b6b", "#0072B2", "#D55E00"
CYCLE = (*COLOURS, "#000000")
MARKERS = "osD^vPX"
INK, SOFT, GRID = "#1f2328", "#57606a", "#dfe3e8"
WIDTH, HEIGHT, DPI = 8.0, 4.7, 150
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # text over lines stays readable

_SETTINGS: Any = {
    "text.parse_math": False,  # names are data, and may contain dollar signs
    "font.size": 10.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6.5,
}


@contextmanager
def canvas(path: Path, title: str, subtitle: str, height: float = HEIGHT) -> Iterator[Figure]:
    """Yield an empty figure with its title; it is saved as `path` at the end of the block.

    `height` is in inches; the title has the same height in every figure.
    """
    part = HEIGHT / height
    with mpl.rc_context(_SETTINGS):
        layout = ConstrainedLayoutEngine(rect=(0.008, 0.012, 0.984, 0.988 - 0.143 * part))
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.016, 1 - 0.055 * part, title, fontsize=14, fontweight="bold", va="center")
        figure.text(0.016, 1 - 0.115 * part, subtitle, fontsize=10.5, color=SOFT, va="center")
        yield figure
        figure.savefig(path, metadata={"Software": None})


def end_labels(axes: Axes, x: float, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels (y, text, colour) at the right ends of lines, moved apart to avoid overlap.

    Call it last, because the positions depend on the final limits of the axes.
    """
    axes.get_ylim()  # makes the limits final
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for y, _, _ in labels]
    for (_, text, colour), height in zip(labels, apart(heights, 0.062), strict=True):
        note = axes.annotate(
            text,
            (x, height),
            (10, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )
        note.set_bbox(BEHIND)


def apart(values: Sequence[float], least: float) -> list[float]:
    """Move `values` as little as possible so that they are at least `least` apart, in order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _top(groups[-2], values, least) > _bottom(
            groups[-1], values, least
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = [0.0] * len(values)
    for group in groups:
        for step, index in enumerate(group):
            placed[index] = _bottom(group, values, least) + least * (step + 0.5)
    return placed


def _bottom(group: list[int], values: Sequence[float], least: float) -> float:
    middle = sum(values[i] for i in group) / len(group)
    return middle - least * len(group) / 2


def _top(group: list[int], values: Sequence[float], least: float) -> float:
    return _bottom(group, values, least) + least * len(group)


def human_bytes(count: float) -> str:
    """Format bytes in decimal units: `1234567` as `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
