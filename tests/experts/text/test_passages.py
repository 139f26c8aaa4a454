"""What of a text is embedded: every document's beginning, then more of the documents there are."""

import pytest

from fedmore.experts.text.opener import resolve
from fedmore.experts.text.passages import passages
from fedmore.experts.text.tokenization import TextTokenizer
from fedmore.sims.data.tiny_model import byte_tokenizer

BYTES = byte_tokenizer()
TEXT = TextTokenizer(BYTES, resolve(BYTES))
BOOK = "".join(f"{i:04}" for i in range(2500))


def shown(found):
    return [BYTES.decode(passage.ids) for passage in found]


def test_of_many_documents_each_gives_its_beginning():
    documents = [f"{i:02} begins and goes on" for i in range(20)]
    found = passages(documents, TEXT, 12, 9, seed=1)
    assert len({passage.number for passage in found}) == 12
    assert all(text == documents[p.number][:9] for text, p in zip(shown(found), found, strict=True))
    assert shown(found) == shown(passages(documents, TEXT, 12, 9, seed=1))
    assert shown(found) != shown(passages(documents, TEXT, 12, 9, seed=2))


def test_one_long_document_gives_passages_of_its_whole_length():
    found = shown(passages([BOOK], TEXT, 1000, 128, seed=1))
    assert len(found) == len(BOOK) // 128
    assert len(set(found)) == len(found)
    assert all(part in BOOK for part in found)
    some = shown(passages([BOOK], TEXT, 40, 128, seed=1))
    halves = [BOOK.index(part) > len(BOOK) / 2 for part in some]
    assert 10 < sum(halves) < 30


@pytest.mark.parametrize("count", [1, 5, 6, 9, 100])
def test_all_give_one_before_any_gives_another(count):
    documents = [BOOK[:600], "short", BOOK[600:900], "also short", BOOK[900:1000]]
    found = passages(documents, TEXT, count, 50, seed=0)
    turns = [[p.number for p in found].count(number) for number in range(len(documents))]
    assert len(found) == min(count, 12 + 1 + 6 + 1 + 2)
    assert max(turns) - min(turns) <= 1 or turns[1] == turns[3] == 1
    assert [p.number for p in found[:5]] == list(dict.fromkeys(p.number for p in found[:5]))
    assert len(set(shown(found))) == len(found)


def test_no_document_gives_no_passage():
    assert passages([], TEXT, 10, 5, seed=0) == []
