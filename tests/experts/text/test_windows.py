"""Training windows: over an epoch every token of the text is trained on, once."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples, rarer_slow

from fedmore.experts.errors import DataError
from fedmore.experts.text.opener import resolve
from fedmore.experts.text.segments import segments_of
from fedmore.experts.text.tokenization import TextTokenizer
from fedmore.experts.text.windows import Place, Stream, windows
from fedmore.sims.data.tiny_model import END, byte_tokenizer

BYTES = byte_tokenizer()
OPENER = BYTES.eos_token_id
FORMS = {
    "opened": TextTokenizer(BYTES, resolve(BYTES, END)),
    "every window opened": TextTokenizer(BYTES, resolve(BYTES, END, windows=True)),
    "not opened": TextTokenizer(BYTES, resolve(BYTES, "none")),
}
LETTERS = [chr(code) for code in range(0x21, 0x7F)]


@pytest.fixture(params=FORMS)
def text(request):
    return FORMS[request.param]


def trained(rows):
    """The text's tokens that windows train, openers left out."""
    return [token for token in rows[:, 1:].flatten().tolist() if token != OPENER]


@settings(max_examples=examples(30), deadline=None)
@given(
    form=st.sampled_from(list(FORMS)),
    documents=st.lists(st.text(LETTERS, min_size=1, max_size=70), min_size=1, max_size=6),
    length=st.integers(1, 20),
    longest=st.integers(5, 40),
    buffer=st.integers(1, 200),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_an_epoch_trains_every_token_once(form, documents, length, longest, buffer, seed):
    """Beyond that the last window borrows from the next epoch, and so may the one before it."""
    text = FORMS[form]
    stream = Stream(text, segments_of(documents, longest), length, seed, buffer)
    place, counts = Place(), Counter[int]()
    expected = Counter(token for document in documents for token in text.plain(document))
    while place.epoch < 3:
        part = stream.take(place, 1)
        assert part.windows.shape == (1, length + 1)
        counts.update(trained(part.windows))
        place = part.place
    many = Counter({token: place.epoch * count for token, count in expected.items()})
    assert not many - counts
    assert sum((counts - many).values()) < 2 * length


@pytest.mark.parametrize("count", rarer_slow([1, 3, 7, 50], [3, 50]))
def test_rounds_of_any_size_give_the_same_windows(text, count):
    documents = [f"{i} of thirty" * (i % 5 + 1) for i in range(30)]
    whole = Stream(text, segments_of(documents, 50), 8, 0, 300).take(Place(), 100).windows
    place, rows = Place(), []
    while len(rows) < 100:  # each from what is known of the place alone
        part = Stream(text, segments_of(documents, 50), 8, 0, 300).take(place, count)
        rows.extend(part.windows)
        place = part.place
    assert torch.equal(torch.stack(rows[:100]), whole)


def test_one_long_text_is_cut_over_its_whole_length():
    """A megabyte of numbers, in which no two windows are alike."""
    text, long = FORMS["opened"], " ".join(map(str, range(160_000)))
    assert len(long) > 1_000_000
    stream = Stream(text, segments_of([long]), 128, seed=1)
    count = -(-stream.tokens // 128) - 8
    found = stream.take(Place(), count)
    assert found.place.epoch == 0
    assert len({tuple(row) for row in found.windows[:, 1:].tolist()}) == count
    assert len(trained(found.windows)) > 0.995 * len(long)
    tenth = stream.take(Place(), count // 10).windows  # a round's share comes from everywhere
    starts = [long.find(BYTES.decode(row[-100:])) for row in tenth.tolist()]
    parts = Counter(10 * start // len(long) for start in starts if start >= 0)
    assert len(parts) == 10
    assert min(parts.values()) > len(tenth) / 25


def test_epochs_differ_in_order_and_seeds_too():
    text, documents = FORMS["opened"], [f"{i} of thirty" for i in range(30)]

    def order(seed, epoch):
        return Stream(text, segments_of(documents), 16, seed).take(Place(epoch), 20).windows

    assert torch.equal(order(0, 0), order(0, 0))
    assert not torch.equal(order(0, 0), order(1, 0))
    assert not torch.equal(order(0, 0), order(0, 1))


def test_what_stands_before_a_window():
    """The token before it in the text or, where windows are opened, the opener: never two."""
    documents = ["abcdefgh", "ijklmnopq"]
    for form, text in FORMS.items():
        rows = Stream(text, segments_of(documents), 4, seed=0).take(Place(), 5).windows.tolist()
        for row in rows:
            shown = "".join("|" if token == OPENER else BYTES.decode(token) for token in row)
            assert "||" not in shown
            if form == "every window opened":
                assert shown[0] == "|"
            elif form == "opened":
                assert all(
                    pair in "|abcdefgh|ijklmnopq|abcdefgh" for pair in (shown[:2], shown[1:3])
                )
            else:
                assert "|" not in shown


def test_the_documents_of_a_part_are_counted():
    text = FORMS["opened"]
    stream = Stream(text, segments_of(["a" * 40, "b" * 3, "c" * 3]), 48, seed=0)
    assert stream.take(Place(), 1).documents == 3
    assert Stream(text, segments_of(["a" * 400, "b" * 3], 50), 4, 0).take(Place(), 1).documents == 1


@pytest.mark.parametrize("documents", [[], [""]])
def test_nothing_to_train_on_is_refused(documents):
    with pytest.raises(DataError, match="no documents to train on"):
        windows(documents, FORMS["not opened"], 4, 1, seed=0)


@given(texts=st.lists(st.text(min_size=0, max_size=300), max_size=4), longest=st.integers(1, 60))
def test_segments_are_the_documents(texts, longest):
    found = segments_of(texts, longest)
    for number, text in enumerate(texts):
        own = [segment for segment in found if segment.number == number]
        assert "".join(segment.text for segment in own) == text
        assert [segment.first for segment in own] == [i == 0 for i in range(len(own))]
        assert all(0 < len(segment.text) <= longest for segment in own)


def test_windows_of_public_text_are_drawn_by_seed():
    texts = [f"{i} of thirty" for i in range(30)]
    text = FORMS["opened"]
    first = windows(texts, text, 16, 4, seed=1)
    assert first.shape == (4, 17)
    assert torch.equal(first, windows(texts, text, 16, 4, seed=1))
    assert not torch.equal(first, windows(texts, text, 16, 4, seed=2))
