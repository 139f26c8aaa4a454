"""The table of a report's plots: name, caption, and the condition for drawing it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedmore.sims.report.draw_run import draw_aggregation, draw_loss, draw_traffic
from fedmore.sims.report.draw_scores import draw_forgetting, draw_routing, draw_scores
from fedmore.sims.report.draw_tokens import draw_tokens, drawable
from fedmore.sims.report.study import Study


@dataclass(frozen=True)
class Plot:
    """One kind of plot; `wanted` says whether this run has the numbers for it."""

    name: str
    caption: str
    draw: Callable[[Study, Path], None]
    wanted: Callable[[Study], bool] = lambda _: True


@dataclass(frozen=True)
class Drawn:
    """A plot with the path of its PNG."""

    plot: Plot
    path: Path


PLOTS = (
    Plot(
        "bits_per_byte",
        "Bits per byte of held-out text under the base, under the expert trained for it alone, and "
        "under the mixture. Documents differ from each other too, so the change against the base "
        "is also shown document by document, where it was measured.",
        draw_scores,
    ),
    Plot(
        "forgetting",
        "How far every text seen so far, and plain English, moved from the base after each stage. "
        "A rising line shows forgetting; a level one keeps what was learned.",
        draw_forgetting,
        lambda study: bool(study.report.forgetting),
    ),
    Plot(
        "traffic",
        "Bytes that each client sent in the whole run, against the same numbers as float32 and "
        "against sending a whole model every round. The plot says how they were counted.",
        draw_traffic,
    ),
    Plot(
        "training_loss",
        "Mean training loss of each client in each round that it took part in.",
        draw_loss,
        lambda study: any(c.loss is not None for r in study.rounds for c in r.clients.values()),
    ),
    Plot(
        "routing",
        "The share of the mixture that the router gives to each expert, averaged over the tokens "
        "of each held-out text. The rest belongs to the base's own network (“public”).",
        draw_routing,
        lambda study: bool(study.routing),
    ),
    Plot(
        "tokens",
        "The first tokens of one held-out document of each text, with the weight of every expert "
        "in the prediction of each token, averaged over the layers. A stronger colour is a larger "
        "weight.",
        draw_tokens,
        drawable,
    ),
    Plot(
        "aggregation_error",
        "The relative error of the aggregate against the exact weighted sum of the clients' "
        "products, whose ranks may differ. Float32 rounding is the lower limit.",
        draw_aggregation,
        lambda study: bool(study.report.aggregation_error),
    ),
)


def draw_plots(study: Study, folder: Path) -> tuple[Drawn, ...]:
    """Draw every plot that this run has numbers for as `folder`/NAME.png, 1200 pixels wide."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for plot in PLOTS:
        if plot.wanted(study):
            path = folder / f"{plot.name}.png"
            plot.draw(study, path)
            drawn.append(Drawn(plot, path))
    return tuple(drawn)
