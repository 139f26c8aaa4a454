"""`coordinator generate`: what it prints, writes and refuses."""

import json
import os
import signal

import pytest
import torch

from fedmore.coordinator.generation import generator
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.mixture.checkpoint import load_mixture
from fedmore.experts.mixture.generation import Generated, Settings, generate

ARMS = ["public", "legal", "gl"]
PROMPT = "a < b & 日本"


@pytest.fixture
def expected(federation, base):
    """Call it with settings: what the mixture makes of the prompt, and its text."""

    def make(**settings):
        mixture = load_mixture(federation / "mixture", base)
        ids = base.text.document(PROMPT)
        made = generate(mixture, base.tokenizer, ids, Settings(max_tokens=12, **settings))
        new = made.ids[made.prompt :]
        return made, base.tokenizer.decode(new, skip_special_tokens=True)

    return make


@pytest.fixture
def spoken(run, federation):
    """Call it with options of `generate`; one of the same name replaces ours."""
    return lambda *options: run(
        "generate", federation, "--prompt", PROMPT, "--max-tokens", 12, *options
    )


def saying(new):
    """A stand-in for `generate` that makes these tokens."""
    weights_LA = torch.tensor([[0.2, 0.3, 0.5]])

    def told(_mixture, _tokenizer, ids, _settings, on_token):
        for token in new:
            on_token(token, weights_LA)
        count = len(ids) + len(new) - 1
        return Generated((*ids, *new), len(ids), weights_LA[:, None].expand(1, count, 3), False)

    return told


def test_the_text_goes_to_stdout_and_the_legend_to_stderr(spoken, expected):
    made, text = expected()
    done = spoken()
    assert (done.code, done.out) == (0, text + "\n")
    shares = [f"■ {n} {w:.0%}" for n, w in zip(ARMS, made.used.tolist(), strict=True)]
    assert done.err == "   ".join(shares) + "\n"


def test_without_experts_there_is_only_the_text(spoken, expected):
    done = spoken("--no-show-experts")
    assert (done.code, done.out, done.err) == (0, expected()[1] + "\n", "")


def test_a_draw_is_by_its_seed(spoken, expected):
    options = ("--no-show-experts", "--temperature", 1, "--top-p", 0.9, "--seed")
    text = expected(temperature=1.0, top_p=0.9, seed=5)[1]
    assert spoken(*options, 5).out == text + "\n"
    assert spoken(*options, 6).out != text + "\n"


def test_another_mixture_may_be_named(spoken, federation, expected):
    other = spoken("--mixture", federation / "layered", "--no-show-experts")
    assert other.code == 0
    assert other.out != expected()[1] + "\n"


def test_piped_text_is_as_it_is(spoken, base, monkeypatch, screen):
    """Only a terminal would obey control characters: there they become pictures."""
    wild = "\x1b[31mred\r[bold]\t" + "x" * 200 + "\x07"
    new = base.tokenizer(wild)["input_ids"]
    monkeypatch.setattr(generator, "generate", saying(new))
    assert spoken("--no-show-experts").out == wild + "\n"
    shown = screen()
    spoken("--no-show-experts")
    assert shown.getvalue() == "␛[31mred␍[bold]\t" + "x" * 200 + "␇\n"


def test_json_here_is_all_there_is(spoken, expected):
    made, text = expected()
    done = spoken("--json", "-")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert set(found) == {"prompt", "text", "ended", "experts", "used", "pieces"}
    assert (found["prompt"], found["text"], found["ended"]) == (PROMPT, text, False)
    assert found["experts"] == list(found["used"]) == ARMS
    assert list(found["used"].values()) == pytest.approx(made.used.tolist(), abs=1e-4)


def test_the_pieces_of_json_are_the_text_with_its_weights(spoken, expected):
    made, text = expected()
    pieces = json.loads(spoken("--json", "-").out)["pieces"]
    assert [piece["text"] for piece in pieces if piece["given"]] == list(PROMPT)
    assert "".join(piece["text"] for piece in pieces) == PROMPT + text
    place = 0
    for piece in pieces:
        of_tokens = made.mean[place : place + piece["tokens"]]
        assert piece["weights"] == pytest.approx(of_tokens.mean(0).tolist(), abs=1e-4)
        assert sum(piece["weights"]) == pytest.approx(1, abs=2e-4)  # what a softmax promises
        place += piece["tokens"]
    assert place == len(made.ids) - 1


def test_json_into_a_file(spoken, tmp_path, expected):
    file = tmp_path / "told.json"
    done = spoken("--json", file)
    assert (done.code, done.out) == (0, expected()[1] + "\n")
    assert json.loads(file.read_text(encoding="utf-8"))["text"] == expected()[1]
    assert "日" in file.read_text(encoding="utf-8")


def refused(done, code, *words):
    assert (done.code, done.out) == (code, "")
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prompt", " \n"], "the prompt is empty"),
        (["--prompt", "\udcff"], "the prompt is not UTF-8 text"),
        (["--max-tokens", 0], "max-tokens must be 1 or more, not 0"),
        (["--max-tokens", 500], "15 tokens and max-tokens 500"),
        (["--temperature", -1], "temperature must be 0 or from 0.001 up, not -1.0"),
        (["--temperature", "nan"], "temperature must be 0 or from 0.001 up, not nan"),
        (["--top-p", 0], "top-p must be above 0"),
        (["--seed", -1], "seed must be from 0"),
        (["--json", "no/such/folder.json"], "folder.json: cannot be written"),
        (["--html", "no/such/folder.html"], "folder.html: cannot be written"),
    ],
)
def test_bad_arguments_are_one_line(spoken, options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(spoken(*options), 2, "ConfigError", says)
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written_are_refused_before_the_work(spoken, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "generate", None)
    refused(spoken("--html", tmp_path), 2, "name a file")
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    refused(spoken("--json", tmp_path / "new.json"), 2, "Permission denied")


def test_a_disk_that_fills_up_on_the_way_is_said(spoken, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    done = spoken("--json", tmp_path / "new.json", "--no-show-experts")
    assert done.code == 2
    assert done.err.endswith("new.json: cannot be written: No space left on device\n")


def test_no_mixture_yet(run, federation, tmp_path):
    (tmp_path / "federation.toml").write_text((federation / "federation.toml").read_text())
    Registry.open(tmp_path).close()
    done = run("generate", tmp_path, "--prompt", "a")
    refused(done, 12, "RegistryError", "no mixture; `coordinator assemble DIR`")
    refused(run("generate", tmp_path / "gone", "--prompt", "a"), 2, "coordinator init")


def test_ctrl_c_ends_the_line_and_says_where_the_text_is(spoken, base, monkeypatch):
    def stopped(*arguments):
        saying(base.tokenizer("so far")["input_ids"])(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(generator, "generate", stopped)
    done = spoken()
    assert (done.code, done.out) == (130, "so far\n")
    assert done.err == "stopped; the text so far is above\n"
