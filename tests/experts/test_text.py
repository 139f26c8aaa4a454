import pytest
import torch

from fedmore.experts.errors import DataError
from fedmore.experts.text import sample, start_token, tokenize, windows


def test_tokens_open_with_the_start_token(base):
    ids = tokenize(base.tokenizer, "ab")
    assert ids[0] == start_token(base.tokenizer)
    assert base.tokenizer.decode(ids[1:]) == "ab"


@pytest.mark.parametrize(("length", "count"), [(8, 1), (5, 7), (1, 30)])
def test_windows_lie_end_to_end(base, length, count):
    found = windows(["abcdefgh", "xyz"], base.tokenizer, length, count, seed=0)
    assert found.shape == (count, length + 1)
    assert torch.equal(found[:-1, -1], found[1:, 0])
    assert found.is_contiguous()


def test_windows_start_over_when_the_text_is_used_up(base):
    one = tokenize(base.tokenizer, "abc")
    found = windows(["abc"], base.tokenizer, 10, 2, seed=0)
    assert torch.cat([found[0], found[1][1:]]).tolist() == (one * 6)[:21]


def test_windows_use_every_document_once_before_any_twice(base):
    texts = [chr(ord("a") + i) for i in range(10)]
    found = windows(texts, base.tokenizer, 20, 2, seed=4).flatten().tolist()
    letters = base.tokenizer.decode([t for t in found if t != start_token(base.tokenizer)])
    assert sorted(letters[:10]) == sorted(texts)


def test_windows_depend_on_the_seed_alone(base):
    texts = [f"document {i} of some length" for i in range(9)]
    first = windows(texts, base.tokenizer, 16, 4, seed=1)
    assert torch.equal(first, windows(texts, base.tokenizer, 16, 4, seed=1))
    assert not torch.equal(first, windows(texts, base.tokenizer, 16, 4, seed=2))
    assert texts == [f"document {i} of some length" for i in range(9)]


def test_windows_of_nothing_are_refused(base):
    with pytest.raises(DataError, match="no documents"):
        windows([], base.tokenizer, 4, 1, seed=0)


def test_a_sample_is_drawn_without_replacement_by_seed():
    texts = [str(i) for i in range(20)]
    drawn = sample(texts, 8, 3)
    assert len(set(drawn)) == 8
    assert set(drawn) < set(texts)
    assert drawn == sample(texts, 8, 3) != sample(texts, 8, 4)
    assert sorted(sample(texts, 99, 0)) == sorted(texts)
