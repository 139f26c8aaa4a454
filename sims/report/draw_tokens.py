"""Heat map of the first tokens of each held-out text by expert."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font

from fedmore.coordinator.generation.colours import colour
from fedmore.sims.report.study import Study, Token
from fedmore.sims.report.style import SOFT, canvas

COLUMNS, LETTERS, UPRIGHT = 40, 9, 2
HEAD, ROW, FOOT = 0.8, 0.15, 0.62
"""Heights in inches: of the head, of an expert's row, of a text's title and token labels."""

SIGNS = {"\n": "↵", "\r": "↵", "\t": "⇥"}
SPACE = "␣"
MISSING = "□"


def drawable(study: Study) -> bool:
    """Whether any text has tokens with weights of the experts that its routing names."""
    return bool(_texts(study))


def _texts(study: Study) -> dict[str, tuple[Token, ...]]:
    return {
        text: tokens[:COLUMNS]
        for text, tokens in study.tokens.items()
        if tokens and all(len(t.weights) == len(study.routing.get(text, ())) for t in tokens)
    }


def draw_tokens(study: Study, path: Path) -> None:
    """Draw one strip per text, with experts as rows and tokens as columns."""
    texts = _texts(study)
    rows = max(len(study.routing[text]) for text in texts)
    height = HEAD + len(texts) * (FOOT + ROW * rows)
    subtitle = "first tokens of one held-out document of each text · weight by strength of colour"
    with canvas(path, "Which expert works on which token", subtitle, height) as figure:
        every = figure.subplots(len(texts), squeeze=False)[:, 0]
        for axes, (text, tokens) in zip(every, texts.items(), strict=True):
            _strip(axes, text, list(study.routing[text]), tokens)


def _strip(axes: Axes, text: str, experts: list[str], tokens: tuple[Token, ...]) -> None:
    shares = np.array([token.weights for token in tokens]).T.clip(0, 1)
    colours = np.array([to_rgb(colour(arm)) for arm in range(len(experts))])
    # Weight 0 is white, weight 1 the expert's own colour.
    axes.imshow(1 - shares[..., None] * (1 - colours[:, None]), aspect="auto")
    axes.set_xlim(-0.5, COLUMNS - 0.5)
    axes.set_title(text, loc="left", fontsize=9, fontweight="bold", pad=3)
    axes.set_yticks(range(len(experts)), experts, fontsize=7)
    axes.tick_params(pad=2, colors=SOFT)
    _labels(axes, [label(token.text) for token in tokens])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _labels(axes: Axes, texts: list[str]) -> None:
    """Write the tokens vertically, or horizontally if all are short."""
    if max(map(len, texts)) <= UPRIGHT:
        axes.set_xticks(range(len(texts)), texts, fontsize=6, va="baseline")
        axes.tick_params(axis="x", pad=8)
    else:
        axes.set_xticks(range(len(texts)), texts, fontsize=6, rotation=90)


def label(text: str) -> str:
    """Shorten a token for the axis, with signs for white space and for glyphs the font lacks."""
    short = text.strip(" ")[:LETTERS] or SPACE
    known = get_font(findfont(FontProperties())).get_charmap()
    shown = (SIGNS.get(letter, letter) for letter in short)
    return "".join(letter if ord(letter) in known else MISSING for letter in shown)
