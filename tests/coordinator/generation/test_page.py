"""The page of a text that was made: it stands alone, escapes, nests, and shows every expert."""

import pytest
import torch
from html_pages import Page

from fedmore.coordinator.generation.colours import PUBLIC, colour
from fedmore.coordinator.generation.generator import MixtureGenerator
from fedmore.coordinator.generation.page import page
from fedmore.experts.mixture.checkpoint import Entry, load_mixture
from fedmore.experts.mixture.generation import Generated

PROMPT = 'a < b & "<script>"'


@pytest.fixture
def written(run, federation, tmp_path):
    """Call it with a mixture's name: the page's source that the command writes."""

    def write(mixture="mixture"):
        file = tmp_path / "page.html"
        done = run(
            "generate", federation, "--prompt", PROMPT, "--max-tokens", 9, "--html", file,
            "--mixture", federation / mixture,
        )  # fmt: skip
        assert done.code == 0
        return file.read_text(encoding="utf-8")

    return write


@pytest.fixture
def shown(federation, base):
    """Call it with weights [L, T, A] and tokens of which the first `prompt` were given."""

    def make(ids, weights_LTA, prompt=1, ended=False, names=("legal", "gl")):
        place = "mixture" if len(weights_LTA) == 1 else "layered"
        mixture = load_mixture(federation / place, base)
        experts = tuple(Entry(name, "expert", name, 3, 1, "ab") for name in names)
        speaker = MixtureGenerator(mixture, base.text, experts)
        return page(speaker, Generated(tuple(ids), prompt, weights_LTA, ended))

    return make


@pytest.mark.parametrize("mixture", ["mixture", "layered"])
def test_it_needs_nothing_from_outside(written, mixture):
    text = written(mixture)
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "base", "object"} & {t for t, _ in found.tags}
    assert not {"src", "href", "xlink:href"} & {name for _, a in found.tags for name in a}
    assert not any(name.startswith("on") for _, a in found.tags for name in a)
    for outside in ("http", "url(", "@import"):
        assert outside not in text
    assert found.all("html") == [{"lang": "en"}]


def test_text_is_escaped_and_whole(written):
    text = written()
    assert "<script" not in text
    assert "a &lt; b" not in text  # a token each
    assert "&lt;" in text
    spans = [words for words in Page(text).words_in["span"] if words]
    assert "".join(spans).startswith(PROMPT)
    given = [a for a in Page(text).all("span") if a.get("class") == "given"]
    assert len(given) == len(PROMPT)


@pytest.mark.parametrize("mixture", ["mixture", "layered"])
def test_every_expert_is_in_the_legend_in_its_colour(written, mixture):
    found = Page(written(mixture))
    names = [words for words in found.words_in["th"] if words.strip()]
    assert names[2:] == ["public", "legal", "gl"]
    keys = [a["style"] for a in found.all("span") if a.get("class") == "key"]
    assert keys == [f"background:{c}" for c in (PUBLIC, colour(1), colour(2))]
    assert sum(map(float, found.words_in["td"])) == pytest.approx(1, abs=2e-3)


def test_a_token_has_the_colour_of_the_largest_weight_and_tells_all(shown, base):
    letters = base.tokenizer("ab")["input_ids"]
    weights = torch.tensor([[[0.5, 0.1, 0.4], [0.0, 1.0, 0.0]]])
    found = Page(shown([256, *letters], weights))
    first, second = (a for a in found.all("span") if "title" in a)
    assert (first["style"], second["style"]) == (
        f"background:{PUBLIC}64",
        f"background:{colour(1)}c8",
    )
    assert first["title"] == "public 0.50 · gl 0.40 · legal 0.10"
    assert found.all("svg") == []


def test_layers_have_a_map_of_their_own(shown, base):
    letters = base.tokenizer("a\n ")["input_ids"]
    weights = torch.zeros(6, 3, 3)
    weights[:, :, 0] = 1
    weights[5, 1] = torch.tensor([0.0, 0.0, 1.0])
    found = Page(shown([256, *letters], weights))
    cells = found.all("rect")
    assert len(cells) == 6 * 3
    assert cells[1]["fill"] == f"{colour(2)}c8"  # the last layer is on top
    assert {cell["fill"] for cell in cells} == {f"{PUBLIC}c8", f"{colour(2)}c8"}
    assert found.words_in["title"][1:3] == [
        "layer 5: public 1.00 · legal 0.00 · gl 0.00",
        "layer 5: gl 1.00 · public 0.00 · legal 0.00",
    ]
    assert found.words_in["text"] == [*"543210", "a", "↵", "␣"]


def test_how_it_ended(shown):
    one = " ".join(shown([256, 5], torch.ones(1, 1, 3) / 3, ended=True).split())
    assert "1 token after the given text, which is underlined; the model itself made an end" in one
    two = " ".join(shown([256, 5, 6], torch.ones(6, 2, 3) / 3).split())
    assert "2 tokens after" in two
    assert "the end was set by max-tokens" in two
    assert "Router: softmax, by token, a decision for each of 6 layers." in two
