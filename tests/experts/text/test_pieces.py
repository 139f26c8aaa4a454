"""Tokens as pieces of text: nothing is lost, and a character is never torn."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fedmore.experts.text.pieces import BROKEN, LONGEST, Pieces, pieces
from fedmore.sims.data.tiny_model import byte_tokenizer

SMILE = "🙂".encode()
BYTES = st.binary(max_size=30)
TEXT = st.text(max_size=12)
MIXED = st.lists(
    st.one_of(
        st.binary(max_size=3),
        st.text(max_size=2).map(str.encode),
        st.sampled_from(("é", "語", "🙂", BROKEN, "\n")).map(str.encode),
        st.sampled_from((SMILE[:1], SMILE[:2], SMILE[:3], SMILE[1:])),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def tokens(tokenizer):
    """Call it with bytes, whole characters or not: a token each."""
    as_they_are = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in as_they_are]
    letters = {byte: chr(byte) for byte in as_they_are}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    found = tokenizer.convert_tokens_to_ids([letters[byte] for byte in range(256)])
    assert len(set(found)) == 256
    return lambda data: [found[byte] for byte in data]


class Chunks:
    """A tokenizer whose tokens are any bytes: token i is the i-th chunk."""

    def __init__(self, chunks):
        self.chunks = chunks

    def decode(self, ids, **_):
        return b"".join(self.chunks[i] for i in ids).decode("utf-8", "replace")


def numbered(count):
    """Weights [L, T, A]: token t has t in layer 0 and 100 t in layer 1."""
    return torch.arange(count).float()[None, :, None] * torch.tensor([1.0, 100.0]).view(2, 1, 1)


def split(tokenizer, ids):
    """After the start token."""
    return pieces(tokenizer, [tokenizer.eos_token_id, *ids], numbered(len(ids)))


@given(data=st.one_of(BYTES, MIXED.map(b"".join)))
@example(data=SMILE[:3] * 3)
@example(data=BROKEN.encode() * 5)
@example(data=b"\x80" * 9 + SMILE)
def test_the_pieces_are_the_decoded_text(tokenizer, tokens, data):
    ids = tokens(data)
    text = "".join(piece.text for piece in split(tokenizer, ids))
    assert text == tokenizer.decode(ids) == data.decode("utf-8", "replace")


@given(chunks=MIXED)
@example(chunks=[b"a" + SMILE[:3], SMILE[3:] + SMILE[:2], SMILE[2:3], b"", SMILE[3:]])
def test_the_pieces_of_longer_tokens_are_the_decoded_text(chunks):
    tokenizer = Chunks([b"the ", *chunks])
    found = pieces(tokenizer, range(len(chunks) + 1), numbered(len(chunks)))
    assert "".join(piece.text for piece in found) == b"".join(chunks).decode("utf-8", "replace")


@given(text=TEXT.filter(lambda text: BROKEN not in text))
@example(text="aé語🙂\n")
def test_a_character_of_several_tokens_is_one_piece(tokenizer, tokens, text):
    found = split(tokenizer, tokens(text.encode()))
    assert [piece.text for piece in found] == list(text)
    assert [piece.tokens for piece in found] == [len(letter.encode()) for letter in text]


@given(data=MIXED.map(b"".join))
def test_every_token_is_in_one_piece_with_its_weights(tokenizer, tokens, data):
    found, seen = split(tokenizer, tokens(data)), 0
    for piece in found:
        middle = seen + (piece.tokens - 1) / 2
        assert piece.weights_LA.tolist() == [[middle], [middle * 100]]
        assert piece.mean.tolist() == pytest.approx([middle * 50.5])
        seen += piece.tokens
    assert seen == len(data)


@given(data=MIXED.map(b"".join))
def test_a_text_is_shown_as_it_comes(tokenizer, tokens, data):
    """At most the beginning of one character is held back, whatever the bytes."""
    joined, held = Pieces(tokenizer, [tokenizer.eos_token_id]), 0
    for token in tokens(data):
        piece = joined.add(token, torch.zeros(1, 2))
        held += 1 - (piece.tokens if piece else 0)
        assert held <= LONGEST


def test_broken_bytes_are_shown_at_the_end(tokenizer, tokens):
    joined = Pieces(tokenizer, [tokenizer.eos_token_id])
    shown = [joined.add(token, torch.zeros(1, 2)) for token in tokens(b"a" + SMILE[:3])]
    assert [piece and piece.text for piece in shown] == ["a", None, None, None]
    last = joined.rest()
    assert (last.text, last.tokens) == (BROKEN, 3)
    assert joined.rest() is None


def test_broken_bytes_in_the_middle_are_a_piece_of_their_own(tokenizer, tokens):
    found = split(tokenizer, tokens(b"a\x80\x80\x80\x80" + SMILE[:2] + SMILE))
    assert [(piece.text, piece.tokens) for piece in found] == [
        ("a", 1), *[(BROKEN, 1)] * 4, (BROKEN, 2), ("🙂", 4),
    ]  # fmt: skip


def test_the_end_token_is_a_piece_without_text(tokenizer, tokens):
    found = split(tokenizer, [*tokens(b"a"), tokenizer.eos_token_id])
    assert [(piece.text, piece.tokens) for piece in found] == [("a", 1), ("", 1)]


def test_a_tokens_text_is_what_the_text_grows_by():
    """Where a tokenizer drops a text's first space, the second token keeps its own."""

    class Dropping(Chunks):
        def decode(self, ids, **_):
            return super().decode(ids).removeprefix(" ")

    tokenizer = Dropping([b"", b" the", b" parties"])
    assert [piece.text for piece in pieces(tokenizer, [0, 1, 2], numbered(2))] == [
        "the",
        " parties",
    ]


def test_one_token_alone_has_no_pieces(tokenizer):
    assert split(tokenizer, []) == []
