"""The router stage over a grid in memory."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmore.experts.errors import DataError, RoundError, WireError
from fedmore.strategies.embedding_stage.embeddings import Embedding, by_expert, dump, restore
from fedmore.strategies.embedding_stage.strategy import (
    EMBED_DOCUMENTS,
    EMBED_TOKENS,
    EmbeddingStrategy,
    read_embed_task,
    read_embedding,
)
from fedmore.strategies.members import HELLO, Member, hello
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.tasks.train import EMBED


def hostile(answer, **changes):
    return RecordDict({**answer, **changes})


@pytest.fixture
def embed(new_log):
    def run(grid):
        log = new_log()
        strategy = EmbeddingStrategy(EmbeddingStage(), 5, 7, log)
        strategy.start(grid, ArrayRecord(), num_rounds=1, timeout=5)
        return by_expert(log[-1][2]) if log else {}, log

    return run


def test_embeddings_are_means_by_size_of_text(fake_grid, clients, embed):
    grid = fake_grid(clients())
    found, log = embed(grid)
    assert set(found) == {"legal", "medical", "gl"}
    value = {c.name: read_embedding(c.embed(None), 5)[0].item() for c in clients()}
    assert found["legal"].tolist() == [0.75 * value["b"] + 0.25 * value["a"]] * 5
    assert found["medical"].tolist() == [value["m"]] * 5
    assert log[0][1]["clients"]["a"] == {"documents": 3, "tokens": 50}
    task = read_embed_task(grid.tasks(EMBED)["a"][0])
    assert (task.documents, task.tokens, task.seed) == (EMBED_DOCUMENTS, EMBED_TOKENS, 7)


@pytest.mark.parametrize("order", [None, 1, 2])
def test_embeddings_do_not_depend_on_the_order(fake_grid, clients, embed, order):
    expected, _ = embed(fake_grid(clients(), 0))
    found, _ = embed(fake_grid(clients(), order))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def bytes_of(data):
    return ArrayRecord({"mean": Array("uint8", (len(data),), "fedmore.fp32", data)})


SPOILT = [
    (DataError("gone"), "m: DataError: gone"),
    (lambda _: None, "m: no answer in time"),
    (lambda _: RecordDict(), "m: the embedding holds []"),
    (lambda answer: hostile(answer, metrics=MetricRecord({"text": 1})), "m: the metrics are"),
    (
        lambda answer: hostile(answer, embedding=bytes_of(b"1234")),
        "m: fp32: 4 bytes where the shapes ask for 20",
    ),
    (
        lambda answer: hostile(answer, embedding=bytes_of(b"\xff" * 20)),
        "m: fp32: NaN or Inf in an update",
    ),
]
"""What a client makes of its answer, and how its failure is told."""


@pytest.mark.parametrize(("spoil", "cause"), SPOILT)
def test_a_client_that_fails_is_left_out_with_its_cause(
    fake_grid, clients, embed, spoil, cause, spoiling
):
    everybody = clients()
    everybody[2].spoil = spoiling(EMBED, spoil)
    found, log = embed(fake_grid(everybody))
    assert set(found) == {"legal", "gl"}
    assert set(log[0][1]["clients"]) == {"a", "b", "g"}
    (failure,) = log[0][1]["failures"]
    assert failure.startswith(cause)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (DataError("gone"), "node 13: DataError: gone"),
        (lambda _: RecordDict(), "node 13: does not say who it is"),
        (lambda _: hello(Member("m", "expert", "medical", 2, 0, [], [])), "m: says that it has no"),
    ],
)
def test_a_client_that_does_not_say_who_it_is_is_left_out(
    fake_grid, clients, embed, spoil, cause, spoiling
):
    everybody = clients()
    everybody[2].spoil = spoiling(HELLO, spoil)
    found, log = embed(fake_grid(everybody))
    assert set(found) == {"legal", "gl"}
    assert log[0][1]["failures"][0].startswith(cause)


def test_one_of_two_owners_is_enough_for_an_expert(fake_grid, clients, embed, spoiling):
    everybody = clients()
    everybody[0].spoil = spoiling(EMBED, DataError("gone"))
    found, _ = embed(fake_grid(everybody))
    assert found["legal"].tolist() == read_embedding(everybody[1].embed(None), 5).tolist()


@pytest.mark.parametrize("when", [EMBED, HELLO])
def test_the_stage_fails_with_every_cause_if_nobody_succeeds(
    fake_grid, clients, embed, spoiling, when
):
    everybody = clients()
    for client in everybody:
        client.spoil = spoiling(when, DataError(f"{client.name} is gone"))
    with pytest.raises(RoundError) as caught:
        embed(fake_grid(everybody))
    assert all(f"{client.name} is gone" in str(caught.value) for client in everybody)


def test_a_quorum_holds_in_this_stage_too(fake_grid, clients, new_log, spoiling):
    everybody = clients()
    everybody[2].spoil = spoiling(EMBED, DataError("gone"))
    strategy = EmbeddingStrategy(EmbeddingStage(quorum_fraction=0.9), 5, 7, new_log())
    with pytest.raises(RoundError, match="no domain embedding: m: DataError: gone"):
        strategy.start(fake_grid(everybody), ArrayRecord(), num_rounds=1, timeout=5)


def test_an_owner_who_withdraws_meanwhile_is_left_out(fake_grid, clients, new_log):
    log = new_log()
    strategy = EmbeddingStrategy(EmbeddingStage(), 5, 7, log, lambda: {"m"})
    strategy.start(fake_grid(clients()), ArrayRecord(), num_rounds=1, timeout=5)
    assert set(by_expert(log[0][2])) == {"legal", "gl"}
    assert log[0][1]["failures"] == ["m: withdrawn"]


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
