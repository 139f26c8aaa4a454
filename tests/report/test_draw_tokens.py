"""The heat map of tokens by expert: when it is drawn, and what is below and beside it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from fedmore.coordinator.generation.colours import colour
from fedmore.sims.report.build import write_report
from fedmore.sims.report.draw_tokens import COLUMNS, draw_tokens, label
from fedmore.sims.report.plots import PLOTS
from fedmore.sims.report.study import Study, Token

Make = Callable[..., Path]
Read = Callable[[Path], Study]
WEIGHTS = (0.1, 0.6, 0.2, 0.1)


def tokens(*texts: str, weights: tuple[float, ...] = WEIGHTS) -> list[dict[str, Any]]:
    return [{"text": text, "weights": list(weights)} for text in texts]


@pytest.fixture
def study(make: Make, study_of: Read) -> Callable[..., Study]:
    """Call it with `tokens` of evaluation.json."""
    return lambda found: study_of(make(tokens=found))


def wanted(study: Study) -> list[str]:
    return [plot.name for plot in PLOTS if plot.wanted(study)]


def test_it_is_drawn_and_in_the_page_where_there_are_tokens(make: Make) -> None:
    directory = make(tokens={"legal": tokens("the", " parties"), "gl": tokens("o")})
    written = write_report(directory, scenario="s", engine="grpc", seed=1, wall_s=1.0)
    assert "tokens" in [path.stem for path in written.plots]
    assert "The first tokens of one held-out document" in written.html.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"legal": []},
        {"legal": tokens("the", weights=(0.5, 0.5))},  # of other experts than its routing
        {"unknown": tokens("the")},
    ],
)
def test_it_is_left_out_where_there_is_nothing_to_draw(
    study: Callable[..., Study], found: dict[str, Any]
) -> None:
    assert "tokens" not in wanted(study(found))


def test_an_evaluation_of_before_has_no_tokens(make: Make, study_of: Read) -> None:
    assert "tokens" not in wanted(study_of(make()))


def shades(path: Path) -> set[tuple[int, ...]]:
    """Colours that fill at least a whole cell of the map."""
    pixels = (imread(path)[..., :3] * 255).round().astype(int).reshape(-1, 3)
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(row) for row, count in zip(found.tolist(), counts, strict=True) if count > 300}


def mixed(arm: int, weight: float) -> tuple[int, ...]:
    """White at 0, the arm's own colour at 1."""
    return tuple(round(255 * (1 - weight * (1 - part))) for part in to_rgb(colour(arm)))


def test_every_expert_is_in_its_colour_by_weight(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    weights = (0.0, 1.0, 0.5, 0.25)
    found = study({"legal": tokens(*"abcdefgh", weights=weights)})
    draw_tokens(found, tmp_path / "map.png")
    drawn = shades(tmp_path / "map.png")
    for arm, weight in enumerate(weights):
        expected = np.array(mixed(arm, weight))
        assert min(np.abs(np.array(shade) - expected).max() for shade in drawn) <= 1


def test_texts_of_any_kind_are_drawn_at_one_width(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    """Warnings are errors: no letter is missing, no layout fails."""
    found = study(
        {"legal": tokens("\n\n", " 漢字", "🙂", "$x_1$", "\ufffd") * 12, "gl": tokens("a")}
    )
    assert len(found.tokens["legal"]) > COLUMNS
    heights = []
    for name in ("both", "one"):
        draw_tokens(found, tmp_path / f"{name}.png")
        height, width = imread(tmp_path / f"{name}.png").shape[:2]
        assert width == 1200
        heights.append(height)
        found = replace(found, tokens={"gl": found.tokens["gl"]})
    assert heights[0] > heights[1]


def test_more_tokens_than_columns_are_cut(study: Callable[..., Study], tmp_path: Path) -> None:
    every = study({"legal": tokens(*["ab"] * COLUMNS)})
    more = replace(every, tokens={"legal": (*every.tokens["legal"], Token("late", WEIGHTS))})
    for name, found in (("every", every), ("more", more)):
        draw_tokens(found, tmp_path / f"{name}.png")
    assert (tmp_path / "every.png").read_bytes() == (tmp_path / "more.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the", "the"),
        (" the", "the"),
        ("\n", "↵"),
        ("\n\n", "↵↵"),
        (" \r\n", "↵↵"),
        ("\t", "⇥"),
        ("a\tb", "a⇥b"),
        (" ", "␣"),
        ("    ", "␣"),
        ("", "␣"),
        ("immediately", "immediate"),
        ("é¿", "é¿"),
        ("漢", "□"),
        ("\x1b\x00", "□□"),
    ],
)
def test_a_label_is_short_and_shows_white_space(text: str, shown: str) -> None:
    assert label(text) == shown
