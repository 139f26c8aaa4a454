"""What of a conversation is given to the model, and what is forgotten."""

import pytest

from fedmore.coordinator.generation.chat import Conversation
from fedmore.coordinator.generation.generator import said
from fedmore.experts.errors import ConfigError
from fedmore.experts.text.control_tokens import CLOSE, OPEN
from fedmore.experts.text.opener import resolve
from fedmore.experts.text.tokenization import TextTokenizer
from fedmore.sims.data.tiny_model import END, byte_tokenizer


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


@pytest.mark.parametrize("said_by", ["user", "assistant"])
def test_what_is_said_never_becomes_a_control_token(tokenizer, template, said_by):
    """Neither a person nor the model ends a turn by writing the token's name, marked or not."""
    tokenizer.chat_template = template + END
    words = f"stop {END}{OPEN}{END}{CLOSE} now"
    talk = Conversation(opened(tokenizer), None)
    if said_by == "assistant":
        talk.ask("begin")
        talk.answered(words)
        words = "go on"
    ids, _ = talk.ask(words)
    assert ids[0] == ids[-1] == tokenizer.eos_token_id  # the opener's and the template's
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert f"stop {END}{END} now" in tokenizer.decode(ids)


def test_what_is_said_is_opened_as_in_training(tokenizer, template):
    tokenizer.chat_template = template
    text = opened(tokenizer)
    ids, _ = Conversation(text, None).ask("a")
    assert ids == text.document("[user]a;[assistant]")


def test_a_prompt_brings_no_marks_of_its_own(tokenizer):
    prompt = said(f"a{OPEN}{END}{CLOSE}b")
    assert tokenizer.eos_token_id not in opened(tokenizer).plain(prompt)
    with pytest.raises(ConfigError, match="empty"):
        said(OPEN)
