"""Colours on terminals: which, when, and that nobody needs them to tell experts apart."""

import re

import pytest
import torch
from rich.color import Color, ColorSystem
from rich.console import Console
from rich.style import Style

from fedmore.coordinator.generation import generator
from fedmore.coordinator.generation.colours import COLOURS, FEW, PUBLIC, colour, terminal_style
from fedmore.coordinator.generation.terminal import legend
from fedmore.experts.mixture.generation import Generated
from fedmore.protos.system.terminal import visible

WEIGHTS = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
CODE = re.compile(r"\x1b\[([\d;]*)m")


@pytest.fixture
def spoken(run, federation, base, monkeypatch):
    """Call it with options of `generate`: the model says a, b, c, each by another arm."""

    def told(_mixture, _tokenizer, ids, _settings, on_token):
        new = base.tokenizer("abc")["input_ids"]
        weights_LTA = torch.tensor([[WEIGHTS[0]] * (len(ids) - 1) + WEIGHTS])
        for place, token in enumerate(new):
            on_token(token, torch.tensor(WEIGHTS[place : place + 1]))
        return Generated((*ids, *new), len(ids), weights_LTA, False)

    monkeypatch.setattr(generator, "generate", told)
    return lambda *options: run("generate", federation, "--prompt", "x", *options)


def codes(text):
    return CODE.findall(text)


def test_every_token_is_in_the_colour_of_its_expert(spoken, screen):
    shown = screen("xterm-256color")
    assert spoken().code == 0
    first, second = (f"38;5;{Color.parse(c).downgrade(ColorSystem.EIGHT_BIT).number}"
                     for c in COLOURS[:2])  # fmt: skip
    lines = shown.getvalue().splitlines()
    assert lines[0] == f"\x1b[2ma\x1b[0m\x1b[{first}mb\x1b[0m\x1b[{second}mc\x1b[0m"
    assert codes(lines[1]) == ["2", "0", first, "0", second, "0"]
    assert CODE.sub("", lines[1]) == "■ public 40%   ■ legal 40%   ■ gl 20%"


def test_sixteen_colours_are_used_by_name(spoken, screen):
    shown = screen("xterm")
    spoken()
    assert codes(shown.getvalue().splitlines()[0]) == ["2", "0", "34", "0", "31", "0"]


@pytest.mark.parametrize(
    ("term", "no_color", "options"),
    [("xterm", "1", []), ("dumb", "", []), ("xterm", "", ["--no-show-experts"])],
)
def test_no_colours_where_they_are_not_wanted(spoken, screen, monkeypatch, term, no_color, options):
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    shown = screen(term)
    assert spoken(*options).code == 0
    assert "\x1b" not in shown.getvalue()
    assert shown.getvalue().startswith("abc\n")
    assert ("■ legal" in shown.getvalue()) == (not options)


def test_no_colours_in_a_pipe(spoken):
    done = spoken()
    assert (done.out, done.err) == ("abc\n", "■ public 40%   ■ legal 40%   ■ gl 20%\n")


def test_json_here_keeps_a_terminal_free_of_colours(spoken, screen):
    shown = screen()
    spoken("--json", "-")
    assert shown.getvalue().startswith("{")
    assert "\x1b" not in shown.getvalue()


@pytest.mark.parametrize("system", ["standard", "256", "truecolor"])
def test_two_dozen_experts_look_different(system):
    styles = [terminal_style(arm, system) for arm in range(25)]
    assert len(set(styles)) == 25
    limit = ColorSystem.STANDARD if system == "standard" else ColorSystem.EIGHT_BIT
    seen = {Style.parse(style).color.downgrade(limit).number for style in styles[1:7]}
    assert len(seen) == len(COLOURS) == len(FEW)
    assert terminal_style(3, None) == terminal_style(0, None) == ""


def light(shade):
    """Relative luminance (WCAG 2)."""
    parts = [int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(part * share for part, share in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


@pytest.mark.parametrize("shade", [PUBLIC, *COLOURS])
def test_colours_can_be_read_on_white_and_black(shade):
    assert 1.05 / (light(shade) + 0.05) >= 3
    assert (light(shade) + 0.05) / 0.05 >= 3
    assert shade in {colour(arm) for arm in range(7)}


def test_a_legend_breaks_between_experts():
    console = Console(width=30, color_system=None)
    with console.capture() as captured:
        console.print(legend({f"expert {i}": 0.25 for i in range(4)}, None))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines == [f"■ expert {i} 25%" for i in range(4)]


def test_control_characters_are_shown_as_pictures():
    assert visible("a\tb\n\x00\x1b[31m\x7f\x9b\udcff é") == "a\tb\n␀␛[31m\ufffd\ufffd\ufffd é"
