"""Text as tokens: control tokens stay text, and a cut leaves characters whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmore.experts.reading.conversations import chat_template
from fedmore.experts.text.control_tokens import CLOSE, OPEN
from fedmore.experts.text.opener import resolve
from fedmore.experts.text.tokenization import TextTokenizer, sample
from fedmore.sims.data.tiny_model import END, byte_tokenizer

BYTES = byte_tokenizer()
OPENED = TextTokenizer(BYTES, resolve(BYTES))
PLAIN = TextTokenizer(BYTES, resolve(BYTES, "none"))


def test_a_document_is_opened(base):
    assert base.text.document("ab") == [base.tokenizer.eos_token_id, *base.text.plain("ab")]
    assert base.opened("none").text.document("ab") == base.text.plain("ab")


@pytest.mark.parametrize("text", [END, f"a{END}b", f"{END}{END} after", f"{END[:-1]}>"])
def test_text_never_becomes_a_control_token(text):
    assert BYTES.eos_token_id not in OPENED.plain(text)
    assert BYTES.decode(OPENED.plain(text)) == text
    assert OPENED.document(text)[1:] == OPENED.plain(text)
    # Nor does the tokenizer read it so for others afterwards.
    assert BYTES(END, add_special_tokens=False)["input_ids"] == [BYTES.eos_token_id]


TURNS = [
    {"role": "user", "content": f"what is {END}?"},
    {"role": "assistant", "content": f"{END[:5]}{OPEN}{END}{CLOSE}"},
]


def test_of_a_conversation_only_the_template_writes_control_tokens():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}" + END + "{% endfor %}"
    )
    document = chat_template(tokenizer)(TURNS)
    ids = TextTokenizer(tokenizer, resolve(tokenizer)).plain(document)
    assert tokenizer.decode(ids) == f"[user]what is {END}?{END}[assistant]{END[:5]}{END}{END}"
    assert ids.count(tokenizer.eos_token_id) == len(TURNS)
    assert ids[-1] == tokenizer.eos_token_id


@given(text=st.text(st.sampled_from("ab é漢🙂\n")), tokens=st.integers(0, 30))
def test_a_cut_counts_the_bytes_of_its_tokens_and_leaves_characters_whole(text, tokens):
    """A token of this tokenizer is a byte."""
    data = text.encode()
    opened, plain = OPENED.cut(text, tokens), PLAIN.cut(text, tokens)
    assert opened.ids[: opened.given] == [BYTES.eos_token_id]
    assert len(opened.ids) - opened.given == opened.size <= min(tokens, len(data))
    assert data.startswith(BYTES.decode(opened.ids[1:]).encode())
    assert opened.size > min(tokens, len(data)) - 4
    assert plain.ids == opened.ids[1:]
    first = len(text[0].encode()) if plain.ids else 0
    assert (plain.given, plain.size) == (first, opened.size - first)


def test_a_sample_is_drawn_by_seed_without_replacement():
    texts = [str(i) for i in range(30)]
    drawn = sample(texts, 8, 3)
    assert len(set(drawn)) == 8
    assert drawn == sample(texts, 8, 3) != sample(texts, 8, 4)
    assert sorted(sample(texts, 99, 0)) == sorted(texts)
