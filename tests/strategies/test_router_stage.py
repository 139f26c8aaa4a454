"""The router stage over a grid in memory."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmore.experts.errors import DataError, RoundError, WireError
from fedmore.strategies.embeddings import Embedding, by_expert, dump, restore
from fedmore.strategies.plan import Stage
from fedmore.strategies.router import (
    DOCUMENTS,
    TOKENS,
    EmbeddingStrategy,
    read_embed_task,
    read_embedding,
)
from fedmore.strategies.tasks import EMBED


def hostile(answer, **changes):
    return RecordDict({**answer, **changes})


class Answer:
    """As much of a reply as `read_embedding` looks at."""

    def __init__(self, content):
        self.content = content

    def has_error(self):
        return False


@pytest.fixture
def embed(new_log):
    def run(grid):
        log = new_log()
        strategy = EmbeddingStrategy(Stage("router", rounds=1), 5, 7, log)
        strategy.start(grid, ArrayRecord(), num_rounds=1, timeout=5)
        return by_expert(log[-1][2]) if log else {}, log

    return run


def test_embeddings_are_means_by_size_of_text(fake_grid, clients, embed):
    grid = fake_grid(clients())
    found, log = embed(grid)
    assert set(found) == {"legal", "medical", "gl"}
    value = {c.name: read_embedding(Answer(c.embed(None)), 5)[0].item() for c in clients()}
    assert found["legal"].tolist() == [0.75 * value["b"] + 0.25 * value["a"]] * 5
    assert found["medical"].tolist() == [value["m"]] * 5
    assert log[0][1]["clients"]["a"] == {"documents": 3, "tokens": 50}
    task = read_embed_task(grid.tasks(EMBED)["a"][0])
    assert (task.documents, task.tokens, task.seed) == (DOCUMENTS, TOKENS, 7)


@pytest.mark.parametrize("order", [None, 1, 2])
def test_embeddings_do_not_depend_on_the_order(fake_grid, clients, embed, order):
    expected, _ = embed(fake_grid(clients(), 0))
    found, _ = embed(fake_grid(clients(), order))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (DataError("gone"), "m: DataError: gone"),
        (lambda _: None, "m: no answer in time"),
        (lambda _: RecordDict(), r"m: the embedding holds \[\]"),
        (
            lambda answer: hostile(answer, metrics=MetricRecord({"text": 1})),
            r"m: the metrics are \['text'\]",
        ),
        (
            lambda answer: hostile(
                answer,
                embedding=ArrayRecord({"mean": Array("uint8", (4,), "fedmore.fp32", b"1234")}),
            ),
            "m: fp32: 4 bytes where the shapes ask for 20",
        ),
    ],
)
def test_every_client_must_embed(fake_grid, clients, embed, spoil, cause, spoiling):
    everybody = clients()
    everybody[2].spoil = spoiling(EMBED, spoil)
    with pytest.raises(RoundError, match=cause):
        embed(fake_grid(everybody))


def test_a_broken_embedding_task_is_refused():
    with pytest.raises(WireError, match="not an embedding task"):
        read_embed_task(RecordDict({"task": ConfigRecord({"documents": "all"})}))


def test_an_owner_is_left_out_of_the_embeddings():
    means = {n: torch.full((3,), v) for n, v in (("a", 1.0), ("b", 4.0), ("m", 9.0))}
    sent = {
        "a": Embedding("legal", 10, means["a"]),
        "b": Embedding("legal", 20, means["b"]),
        "m": Embedding("medical", 5, means["m"]),
    }
    back = restore(dump(sent))
    assert {n: (e.expert, e.size, e.mean_D.tolist()) for n, e in back.items()} == {
        n: (e.expert, e.size, e.mean_D.tolist()) for n, e in sent.items()
    }
    assert by_expert(back)["legal"].tolist() == [3.0] * 3
    left = by_expert(back, without={"a", "m"})
    assert {name: mean.tolist() for name, mean in left.items()} == {"legal": [4.0] * 3}
