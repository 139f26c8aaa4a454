"""Pages that work offline, in light and dark mode: their style, and the page of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from fedmore.coordinator.generation.colours import colour
from fedmore.protos.system.terminal import visible

if TYPE_CHECKING:  # they import torch
    from fedmore.coordinator.generation.generator import MixtureGenerator
    from fedmore.experts.mixture.generation import Generated
    from fedmore.experts.text.pieces import Piece

TEMPLATE = "generated.html.j2"
CELL, ROW = 14, 10
"""Width of a token and height of a layer on the map, in pixels."""


def make_environment() -> Environment:
    """A Jinja environment that escapes all values and raises on undefined names."""
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def style() -> str:
    """The common style sheet of all pages."""
    return _file("page.css.j2")


def _file(name: str) -> str:
    return files("fedmore.coordinator.generation").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Shown:
    """A piece of text, or its cell in one layer, with a background by its weights."""

    text: str
    fill: str
    weights: str
    given: bool = False


def page(speaker: "MixtureGenerator", made: "Generated") -> str:
    """Render the text with each token's experts, and the leading expert of each layer."""
    arms = speaker.arms
    given = speaker.given(made)
    pieces = [*given, *speaker.made(made)]
    tokens = [
        _shown(arms, piece.text, piece.mean.tolist(), index < len(given))
        for index, piece in enumerate(pieces)
    ]
    used = made.used.tolist()
    return make_environment().from_string(_file(TEMPLATE)).render(
        style=style(),
        tokens=tokens,
        legend=[(name, colour(arm), used[arm]) for arm, name in enumerate(arms)],
        layers=_layers(speaker, pieces),
        cell=CELL,
        row=ROW,
        ended=made.ended,
        count=len(made.ids) - made.prompt,
        router=speaker.mixture.router.spec,
    )  # fmt: skip


def _layers(
    speaker: "MixtureGenerator", pieces: Sequence["Piece"]
) -> list[tuple[int, list[Shown]]]:
    """Every layer with its own decision, from the last, and its weights for every piece."""
    rows = [
        (layer, [_shown(speaker.arms, p.text, p.weights_LA[slot].tolist()) for p in pieces])
        for slot, layer in enumerate(speaker.layers)
    ]
    return rows[::-1]


def _shown(arms: Sequence[str], text: str, weights: list[float], given: bool = False) -> Shown:
    """Choose the colour of the arm with most weight; more weight is a stronger colour."""
    order = sorted(range(len(arms)), key=lambda arm: -weights[arm])
    told = " · ".join(f"{arms[arm]} {weights[arm]:.2f}" for arm in order)
    alpha = min(max(weights[order[0]], 0.0), 1.0)
    fill = f"{colour(order[0])}{round(200 * alpha):02x}"
    return Shown(visible(text).replace("\n", "↵\n"), fill, told, given)
