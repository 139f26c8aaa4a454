"""What of a conversation is given to the model, and what is forgotten."""

import pytest

from fedmore.coordinator.chat import Conversation
from fedmore.experts.errors import ConfigError
from fedmore.experts.opener import resolve
from fedmore.experts.text import TextTokenizer
from fedmore.sims.tiny import byte_tokenizer


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


def opened(tokenizer):
    return TextTokenizer(tokenizer, resolve(tokenizer))


def test_a_template_brings_its_own_start(tokenizer, template):
    tokenizer.chat_template = "<|end|>" + template
    ids, _ = Conversation(opened(tokenizer), None).ask("a")
    assert ids[0] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:]


def test_no_more_turns_are_forgotten_than_needed(tokenizer):
    talk = Conversation(opened(tokenizer), 12)
    for question, answer in (("aaa", "b"), ("c", "d")):
        assert talk.ask(question)[1] == 0
        talk.answered(answer)
    ids, forgotten = talk.ask("eeeee")  # <start>aaa.b.c.d.eeeee would be 16
    assert tokenizer.decode(ids[1:]) == "c\nd\neeeee"
    assert forgotten == 2
    assert [turn["content"] for turn in talk.turns] == ["c", "d", "eeeee"]


def test_without_a_limit_nothing_is_forgotten(tokenizer):
    talk = Conversation(opened(tokenizer), None)
    for _ in range(3):
        assert talk.ask("a" * 10_000)[1] == 0
        talk.answered("b")
    assert len(talk.turns) == 6


@pytest.mark.parametrize("templated", [False, True])
def test_a_question_too_long_is_refused_and_not_kept(tokenizer, template, templated):
    tokenizer.chat_template = template if templated else None
    talk = Conversation(opened(tokenizer), 60)
    talk.ask("short")
    talk.answered("yes")
    before = list(talk.turns)
    with pytest.raises(ConfigError, match=r"\d+ tokens are more than the 60 .*say it shorter"):
        talk.ask("x" * 61)
    assert talk.turns == before  # what was said before goes on
