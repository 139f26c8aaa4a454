"""The study's plots: routers side by side, training curves, effective sample size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fedmore.sims.report.style import BASE, CYCLE, MIXTURE, OWN, canvas, end_labels
from fedmore.sims.studies.routing.claims import label

Result = Mapping[str, Any]
Router = Mapping[str, Any]
COLOUR = {"softmax": OWN, "remix": MIXTURE, "xlora": CYCLE[2]}


def draw(result: Result, folder: Path) -> None:
    """Draw all plots as PNG files."""
    draw_routers(result, folder / "routing-routers.png")
    draw_training(result, folder / "routing-training.png")
    draw_ess(result, folder / "routing-ess.png")


def draw_routers(result: Result, path: Path) -> None:
    """Draw every router's mean bits per byte, best first, with its interval over documents."""
    rows = sorted(result["routers"], key=lambda r: r["mean_bpb"], reverse=True)
    seeds = len(result["seeds"])
    texts = len(result["experts"])
    subtitle = f"bits per byte, mean over {texts} texts and {seeds} seeds · 95 % over documents"
    height = 2.0 + 0.24 * len(rows)
    with canvas(path, "Routers over the same frozen experts", subtitle, height) as figure:
        axes = figure.subplots()
        for y, router in enumerate(rows):
            colour = COLOUR.get(router["kind"], BASE)
            if router["ci95"]:
                axes.plot(router["ci95"], [y, y], color=colour, linewidth=1.5)
            axes.plot(router["mean_bpb"], y, "o", color=colour)
        for name, colour in (("base", BASE), ("oracle", CYCLE[3])):
            axes.axvline(result[f"{name}_bpb"], color=colour, linestyle=":")
            axes.annotate(
                name, (result[f"{name}_bpb"], 1.0), xycoords=("data", "axes fraction"),
                color=colour, ha="center", va="bottom", fontsize=9,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [label(r) for r in rows], fontsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.4)


def draw_training(result: Result, path: Path) -> None:
    """Draw the loss of routers that the coordinator trains, over the fraction of their steps."""
    chosen = [r for r in result["routers"] if r["trained_at"] == "coordinator" and _drawn(r)]
    subtitle = (
        "nats per token on the windows at hand, mean over seeds · mean over a tenth of the steps"
    )
    with canvas(path, "Training of the routers", subtitle) as figure:
        axes = figure.subplots()
        labels = []
        for number, router in enumerate(chosen):
            losses = smoothed(np.mean(router["losses"], axis=0))
            colour = CYCLE[number % len(CYCLE)]
            axes.plot(np.linspace(0, 1, len(losses)), losses, color=colour)
            labels.append((float(losses[-1]), label(router), colour))
        axes.set_xlabel("part of the steps done")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_xlim(0, 1.45)
        end_labels(axes, 1.0, labels)


def _drawn(router: Router) -> bool:
    """Whether a router is drawn: of those that differ only in M, just one is."""
    return router["samples"] in (0, 4) and router["scaling"] == "lora" and router["k"] in (0, 2)


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Running mean over a tenth of the steps."""
    width = max(1, len(values) // 10)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def draw_ess(result: Result, path: Path) -> None:
    """Draw the effective sample size over training, for shared and per-layer decisions."""
    chosen = [r for r in result["routers"] if r["trained_at"] == "coordinator" and _drawn(r)]
    subtitle = "how many arms really work · mean over seeds; thin: each layer of those with many"
    with canvas(path, "Effective sample size over training", subtitle) as figure:
        axes = figure.subplots()
        labels = []
        for number, router in enumerate(chosen):
            colour = CYCLE[number % len(CYCLE)]
            labels.append((_ess_line(axes, router, colour), label(router), colour))
        axes.set_xlabel("part of the steps done")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_ylim(bottom=0.8)
        axes.set_xlim(0, 1.45)
        end_labels(axes, 1.0, labels)


def _ess_line(axes: Axes, router: Router, colour: str) -> float:
    """Draw one router's line; returns its last value."""
    ess = np.mean(router["ess_steps"], axis=0)
    x = np.linspace(0, 1, len(ess))
    if ess.shape[1] > 1:
        axes.plot(x, ess, color=colour, linewidth=0.4, alpha=0.4)
    axes.plot(x, ess.mean(1), color=colour)
    return float(ess.mean(1)[-1])
