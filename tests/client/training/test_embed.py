"""The one embedding that a client gives."""

import json
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from owners import lenient, owner

from fedmore.client.client_app import handle
from fedmore.client.training import embedding_work as apps
from fedmore.experts.base.model import load_base
from fedmore.experts.errors import EgressError, WireError
from fedmore.protos.wire.flower_compat import make_task
from fedmore.strategies.embedding_stage.strategy import METRICS, EmbedTask, read_embedding
from fedmore.strategies.tasks.train import EMBED, read_metrics

TEXTS = [f"stir the soup {i} times, wait {i} minutes, then taste the broth." for i in range(40)]
TASK = EmbedTask(documents=20, tokens=16, seed=1, stage="router", round=1)


@pytest.fixture
def context(tiny, tmp_path):
    lines = (json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "docs.jsonl").write_text("".join(lines), encoding="utf-8")
    config = {
        "name": "a", "kind": "expert", "target": "kitchen", "rank": 4,
        "data": str(tmp_path / "docs.jsonl"), "base": str(tiny), "dtype": "float32",
        "device": "cpu", "quantization": "none", **owner(tmp_path / "state", "a"),
    }  # fmt: skip
    return Context(1, 5, config, RecordDict(), {})


def embed(context, **changes):
    content = RecordDict({"task": ConfigRecord(vars(TASK) | changes)})
    return handle(make_task(content, task_id="e", node_id=5, message_type=EMBED), context)


def forgotten(context):
    """The same owner with nothing remembered, in another folder of the same secret."""
    state = Path(context.node_config["state"])
    for file in ("answered.json", "embedding.safetensors"):
        (state / file).unlink(missing_ok=True)
    return context


def test_it_is_the_mean_input_embedding(context, tiny):
    base = load_base(str(tiny), "float32")
    reply = embed(context, documents=40, tokens=20)
    table = base.model.get_input_embeddings().weight
    tokens = [t for text in TEXTS for t in base.text.plain(text)[:20]]
    expected = table[tokens].double().mean(0).float()
    torch.testing.assert_close(read_embedding(reply.content, 64), expected)
    assert read_metrics(reply.content, METRICS) == {"documents": 40, "tokens": len(tokens)}


def test_documents_are_drawn_by_seed(context):
    first = read_embedding(embed(context).content, 64)
    assert torch.equal(first, read_embedding(embed(forgotten(context)).content, 64))
    other = read_embedding(embed(forgotten(forgotten(context)), seed=2).content, 64)
    assert not torch.equal(first, other)


def test_the_same_question_gets_the_same_answer_whatever_became_of_the_text(context, tmp_path):
    first = read_embedding(embed(context).content, 64)
    context.node_config["data"] = str(tmp_path / "gone")
    again = embed(context)
    assert torch.equal(first, read_embedding(again.content, 64))
    assert read_metrics(again.content, METRICS)["documents"] == 20


@pytest.mark.parametrize("changes", [{"documents": 19}, {"tokens": 15}, {"seed": 2}, {"round": 7}])
def test_another_question_is_refused(context, changes):
    embed(context)
    with pytest.raises(EgressError, match="a second time and in another way"):
        embed(context, **changes)


def test_a_question_that_was_cut_off_is_not_followed_by_another(context, monkeypatch):
    """The first one is what counts, also where the client was killed before its answer."""
    monkeypatch.setattr(apps, "_embedding", None)
    with pytest.raises(TypeError):
        embed(context)
    monkeypatch.undo()
    with pytest.raises(EgressError, match="a second time and in another way"):
        embed(context, documents=19)
    assert read_metrics(embed(context).content, METRICS)["documents"] == 20


def test_it_is_never_the_picture_of_one_document(context):
    with pytest.raises(EgressError, match="asked to embed 15 documents, fewer than 16"):
        embed(context, documents=15)


def test_it_is_of_no_fewer_tokens_than_the_owner_says(context):
    context.node_config["policy"] = lenient(min_embedding_tokens=101)
    with pytest.raises(EgressError, match=r"made of 100 tokens.*fewer than 101"):
        embed(context, tokens=5)
    context.node_config["policy"] = lenient(min_embedding_tokens=100)
    assert read_metrics(embed(context, tokens=5).content, METRICS)["tokens"] == 100


def test_a_broken_task_is_refused(context):
    with pytest.raises(WireError, match="not an embedding task"):
        embed(context, documents="all")
