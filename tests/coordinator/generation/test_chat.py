"""`coordinator chat`: a conversation that goes on, its commands, its memory, and its ends."""

import builtins
import io
import signal
import sys

import pytest
import torch
from rich.console import Console

from fedmore.coordinator.generation.chat import COMMANDS, Chat
from fedmore.coordinator.generation.generator import open_speaker
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.generation import Generated, Settings

POSITIONS = 512


@pytest.fixture(scope="module")
def speaker(federation):
    return open_speaker(federation)


@pytest.fixture
def talk(speaker):
    """Call it with lines: what is shown, the chat afterwards, and what every answer began from."""

    def run(*lines, show=False, **settings):
        shown, begun = io.StringIO(), []
        spy = Spy(speaker, begun)
        chat = Chat(spy, Settings(**({"max_tokens": 8} | settings)), Console(file=shown), show)
        waiting = iter(lines)
        chat.run(lambda: next(waiting, None))
        return shown.getvalue().splitlines(), chat, begun

    return run


class Spy:
    """A speaker that notes what each answer goes on from, and by which settings."""

    def __init__(self, speaker, begun):
        self._speaker, self._begun = speaker, begun

    def __getattr__(self, name):
        return getattr(self._speaker, name)

    def speak(self, ids, settings, on_token) -> Generated:
        made = self._speaker.speak(ids, settings, on_token)
        self._begun.append((list(ids), settings, made))
        return made


def text_of(speaker, ids):
    return speaker.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_conversation_goes_on(talk, speaker):
    lines, chat, begun = talk("hello", "  again ")
    assert lines[0] == COMMANDS
    answers = [turn["content"] for turn in chat.talk.turns if turn["role"] == "assistant"]
    assert len(answers) == 2
    assert [text_of(speaker, made.ids[made.prompt :]) for _, _, made in begun] == answers
    assert [text_of(speaker, ids) for ids, _, _ in begun] == [
        "hello",
        f"hello\n{answers[0]}\nagain",
    ]
    assert begun[0][0] == speaker.text.document("hello")
    assert "\n".join(lines[1:]) == "\n".join(answers)


def test_a_chat_template_is_used_where_there_is_one(talk, speaker, template, monkeypatch):
    monkeypatch.setattr(speaker.tokenizer, "chat_template", template)
    _, chat, begun = talk("hello", "again")
    answer = chat.talk.turns[1]["content"]
    assert [text_of(speaker, ids) for ids, _, _ in begun] == [
        "[user]hello;[assistant]",
        f"[user]hello;[assistant]{answer};[user]again;[assistant]",
    ]


def test_every_answer_is_drawn_anew_and_all_by_one_seed(talk):
    drawn = talk("a", "b", temperature=1.0, seed=3)
    assert [settings.seed for _, settings, _ in drawn[2]] == [3, 4]
    assert talk("a", "b", temperature=1.0, seed=3)[0] == drawn[0]
    assert [s.seed for _, s, _ in talk("a", "b", seed=2**63 - 1)[2]] == [2**63 - 1, 0]


def test_reset_begins_anew(talk, speaker):
    lines, chat, begun = talk("hello", "/reset", "again", "/experts")
    assert "this is a new conversation" in lines
    assert text_of(speaker, begun[1][0]) == "again"
    assert chat.talk.turns[0] == {"role": "user", "content": "again"}
    assert len(chat.used) == 1
    assert begun[1][1].seed == begun[0][1].seed


def test_experts_are_listed_with_their_part(talk):
    empty = talk("/experts")[0]
    assert [line.split() for line in empty[1:]] == [
        ["expert", "kind", "target", "rank", "last", "answer", "conversation"],
        ["public", "base"],
        ["legal", "expert", "legal", "3"],
        ["gl", "expert", "gl", "3"],
    ]
    lines, _, begun = talk("hello", "again", "/experts")
    rows = [line.split() for line in lines[-3:]]
    both = [made for _, _, made in begun]
    counts = [len(made.ids) - made.prompt for made in both]
    for arm, row in enumerate(rows):
        every = sum(float(m.used[arm]) * c for m, c in zip(both, counts, strict=True))
        assert row[-2:] == [f"{both[-1].used[arm]:.0%}", f"{every / sum(counts):.0%}"]


def test_a_legend_follows_every_answer_where_wanted(talk):
    lines, _, begun = talk("hello", show=True)
    shares = [f"{weight:.0%}" for weight in begun[0][2].used.tolist()]
    names = ("public", "legal", "gl")
    assert lines[-1] == "   ".join(f"■ {n} {s}" for n, s in zip(names, shares, strict=True))
    assert not any("■" in line for line in talk("hello")[0])


def test_quit_ends_and_nothing_is_asked_again(speaker):
    lines = iter(["  /quit "])
    Chat(speaker, Settings(), Console(file=io.StringIO()), False).run(lambda: next(lines))


def test_empty_lines_and_unknown_commands_are_not_said_to_the_model(talk):
    lines, chat, begun = talk("", "   ", "/hel\x1bp me")
    assert lines == [COMMANDS, f"/hel␛p me: no such command; {COMMANDS}"]
    assert (chat.talk.turns, begun) == ([], [])


def test_old_turns_are_forgotten_when_there_is_no_more_room(talk, speaker, monkeypatch):
    monkeypatch.setattr(speaker.mixture.model.config, "max_position_embeddings", 30)
    first, second, third = "x" * 21, "y" * 8, "z" * 9
    lines, chat, begun = talk(first, second, third)
    told = "the first 2 turns are dropped, since the base cannot read more at once"
    assert lines.count(told) == 2
    assert len(begun[0][0]) == 30 - 8
    assert [text_of(speaker, ids) for ids, _, _ in begun] == [first, second, third]
    assert len(chat.talk.turns) == 2


def test_a_refused_question_does_not_end_the_chat(talk, speaker):
    lines, chat, begun = talk("hello", "x" * POSITIONS, "/experts", "bad \udcff", "again")
    assert any("513 tokens are more than the 504 that there is room for" in x for x in lines)
    assert any("not UTF-8" in line for line in lines)
    assert len(begun) == 2
    assert text_of(speaker, begun[1][0]).startswith("hello\n")
    assert len(chat.talk.turns) == 4


def test_answers_that_fill_the_base_are_refused_at_the_start(speaker):
    with pytest.raises(ConfigError, match="max-tokens 512"):
        Chat(speaker, Settings(max_tokens=POSITIONS), Console(), False)


@pytest.fixture
def typed(run, federation, monkeypatch):
    """Call it with lines, or what happens instead of one: how the command ends."""

    def command(*lines, options=()):
        waiting = iter(lines)

        def ask(_prompt):
            line = next(waiting)
            return line() if callable(line) else line

        monkeypatch.setattr(builtins, "input", ask)
        return run("chat", federation, "--max-tokens", 4, *options)

    return command


def raising(error):
    def ask():
        raise error

    return ask


@pytest.mark.parametrize("last", ["/quit", raising(EOFError())], ids=["quit", "Ctrl-D"])
def test_it_ends_well(typed, last):
    done = typed("hello", last)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(COMMANDS + "\n")
    assert "■ public" in done.out


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_interrupted_it_ends_like_other_commands(typed, number, code):
    done = typed("hello", lambda: signal.raise_signal(number))
    assert done.code == code
    assert (
        done.err == "stopped; the conversation is not stored; `coordinator chat` begins a new one\n"
    )


def test_interrupted_in_an_answer_it_ends_the_line(typed, monkeypatch):
    def stopped(_speaker, ids, _settings, painter):
        painter(ids[-1], torch.ones(1, 3) / 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("fedmore.coordinator.generation.generator.MixtureGenerator.speak", stopped)
    done = typed("hello")
    assert done.code == 130
    assert done.out == f"{COMMANDS}\no\n"


@pytest.mark.parametrize("strict", ["strict", "surrogateescape"])
def test_what_is_piped_in_is_read_to_its_end(run, federation, monkeypatch, strict):
    """In a C locale Python reads broken bytes as surrogates: they are refused, and it goes on."""
    lines = b"hello\n\xff\n/quit\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8", strict))
    done = run("chat", federation, "--max-tokens", 4)
    if strict == "strict":
        assert done.code == 2
        assert done.err.startswith("ConfigError: the input is not UTF-8 text")
    else:
        assert (done.code, done.err) == (0, "")
        assert done.out.count("not UTF-8 text") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--max-tokens", 0), "max-tokens"), (("--max-tokens", 512), "512 positions"),
     (("--temperature", -1), "temperature"), (("--top-p", 2), "top-p"), (("--seed", -1), "seed")],
)  # fmt: skip
def test_bad_options_are_one_line(typed, options, says):
    done = typed("hello", options=options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err


def test_no_mixture_yet(run, federation, tmp_path):
    (tmp_path / "federation.toml").write_text((federation / "federation.toml").read_text())
    Registry.open(tmp_path).close()
    done = run("chat", tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (12, "", 1)
    assert "coordinator assemble" in done.err
