import math

import numpy as np
import pytest
import torch

from fedmore.experts.scoring import bits_per_byte
from fedmore.experts.scoring.bits_per_byte import Score

TEXTS = ["a short one", "b", "the longest of the documents, by far", "olá 漢字", "mid size text"]


@torch.no_grad()
def plain(base, text, tokens):
    """One document, one token at a time."""
    ids = base.text.document(text)[: tokens + 1]
    nats = 0.0
    for end in range(1, len(ids)):
        logits = base.model(input_ids=torch.tensor([ids[:end]]), use_cache=False).logits[0, -1]
        nats -= float(torch.log_softmax(logits.double(), -1)[ids[end]])
    return nats, len(ids) - 1


@pytest.mark.parametrize("tokens", [200, 7])
def test_equals_a_plain_loop(base, tokens):
    texts = ["a short one", "b", "the longest of all"]
    scores = bits_per_byte.score(base.model, base.text, texts, tokens)
    for text, score in zip(texts, scores, strict=True):
        nats, size = plain(base, text, tokens)
        assert score.nats == pytest.approx(nats, rel=1e-5)
        assert score.size == size == min(len(text.encode()), tokens)
        assert score.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_bytes_are_counted_not_characters(base):
    (score,) = bits_per_byte.score(base.model, base.text, ["olá 漢字"], 100)
    assert score.size == len("olá 漢字".encode())


@pytest.mark.parametrize("batch", [2, 4, 5])
def test_padding_and_order_do_not_matter(base, batch):
    one = bits_per_byte.score(base.model, base.text, TEXTS, 50, batch=1)
    more = bits_per_byte.score(base.model, base.text, TEXTS, 50, batch=batch)
    turned = bits_per_byte.score(base.model, base.text, TEXTS[::-1], 50, batch=batch)[::-1]
    assert [s.size for s in one] == [s.size for s in more] == [s.size for s in turned]
    assert [s.nats for s in more] == pytest.approx([s.nats for s in one], rel=1e-5)
    assert [s.nats for s in turned] == pytest.approx([s.nats for s in one], rel=1e-5)


def test_the_mean_is_over_bytes():
    scores = [Score(10 * math.log(2), 10), Score(60 * math.log(2), 20)]
    assert bits_per_byte.mean_bits_per_byte(scores) == pytest.approx(70 / 30)


def some(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(50, 400, count)
    return [Score(float(n * rng.normal(1.5, 0.3)), int(n)) for n in sizes]


def test_the_interval_encloses_the_mean_and_shrinks():
    few, many = some(8), some(400)
    for scores in (few, many):
        low, high = bits_per_byte.interval(scores)
        assert low < bits_per_byte.mean_bits_per_byte(scores) < high
    width = [np.ptp(bits_per_byte.interval(s)) for s in (few, many)]
    assert width[1] < width[0] / 3
    assert bits_per_byte.interval(few) == bits_per_byte.interval(few)


def test_the_paired_interval_is_of_the_difference():
    base = some(12)
    better = [Score(s.nats - 0.1 * s.size, s.size) for s in base]
    found = bits_per_byte.difference(better, base)
    assert found["mean"] == pytest.approx(-0.1 / math.log(2))
    assert found["ci95"] == pytest.approx([-0.1 / math.log(2)] * 2)
    assert np.ptp(bits_per_byte.summary(better)["ci95"]) > 0.1


def test_one_document_has_no_interval():
    scores = some(1)
    found = bits_per_byte.summary(scores)
    assert found == {"mean": pytest.approx(scores[0].bits_per_byte), "ci95": None}
    assert bits_per_byte.difference(scores, scores)["ci95"] is None


def test_the_part_of_a_gain_that_is_kept():
    base = some(12)
    own = [Score(s.nats - 0.2 * s.size, s.size) for s in base]
    mixture = [Score(s.nats - 0.15 * s.size, s.size) for s in base]
    found = bits_per_byte.gain_kept(base, own, mixture)
    assert found["mean"] == pytest.approx(0.75)
    assert found["ci95"] == pytest.approx([0.75, 0.75])
    assert bits_per_byte.gain_kept(own, base, mixture) is None  # no gain at all
