"""The plots of a report: which there are, when one makes sense, and what its caption says."""

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
    """A plot as a PNG."""

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
        "A line that rises forgets; one that stays keeps what was learned.",
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
        "The part of the mixture that the router gives to each expert, averaged over the tokens of "
        "each held-out text. What no expert gets is the base's own network (“public”).",
        draw_routing,
        lambda study: bool(study.routing),
    ),
    Plot(
        "tokens",
        "The first tokens of one held-out document of each text, and the weight of every expert by "
        "which the mixture predicts each, averaged over the layers: the stronger the colour, the "
        "larger.",
        draw_tokens,
        drawable,
    ),
    Plot(
        "aggregation_error",
        "What the aggregate loses against the exact weighted sum of the clients' products, "
        "although their ranks differ. Rounding of float32 is the least that is possible.",
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
