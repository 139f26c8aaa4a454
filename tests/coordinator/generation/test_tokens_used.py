"""`tokens` of evaluation.json: the first tokens of each held-out text, and their experts."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture.evaluate import evaluate
from fedmore.coordinator.mixture.token_usage import SHOWN, tokens_used
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.factors import to_state
from fedmore.experts.mixture.checkpoint import load_experts, load_mixture, read_recipe
from fedmore.experts.router_training.usage import usage

LONG = "the parties agree, 日本 " * 9
TEXTS = {"legal": LONG, "plain": "ab"}


@pytest.fixture(params=["mixture", "layered"])
def mixture(request, federation, base):
    return load_mixture(federation / request.param, base)


@pytest.fixture
def used(base):
    """Call it with a mixture and the text's documents."""
    return lambda mixture, *documents: tokens_used(
        SimpleNamespace(base=base, documents=lambda _: documents), mixture, "legal"
    )


def test_weights_are_those_that_each_token_is_predicted_by(mixture, used, base):
    found = used(mixture, "aé\nb", "another")
    assert [token["text"] for token in found] == ["a", "é", "\n", "b"]
    ids = base.text.document("aé\nb")
    weights = usage(mixture, torch.tensor([ids[:-1]]))
    expected = [weights[0], weights[1:3].mean(0), weights[3], weights[4]]
    for token, wanted in zip(found, expected, strict=True):
        assert token["weights"] == pytest.approx(wanted.tolist(), abs=6e-4)
        assert token["weights"] == [round(weight, 3) for weight in token["weights"]]


def test_a_long_document_is_cut(mixture, used):
    found = used(mixture, LONG)
    assert len("".join(token["text"] for token in found).encode()) == SHOWN
    assert used(mixture, LONG + "more") == found


def test_a_document_without_tokens_has_none(mixture, used):
    assert used(mixture, "") == []


def test_the_evaluation_has_them_for_every_text(federation, base, tmp_path):
    for name, document in TEXTS.items():
        (tmp_path / f"{name}.txt").write_text(document, encoding="utf-8")
    shutil.copytree(federation / "mixture", tmp_path / "mixture")
    config = parse_config(
        {
            "federation": {"name": "test"},
            "base": {"model": base.name, "dtype": "float32"},
            "evaluation": {"texts": {name: str(tmp_path / f"{name}.txt") for name in TEXTS}},
        },
        "test",
    )
    store, recipe = Store(tmp_path / "blobs"), read_recipe(tmp_path / "mixture")
    with Registry.open(tmp_path) as registry:
        for name, change in load_experts(tmp_path / "mixture", recipe).items():
            registry.add_expert(
                name=name, kind="expert", target=name, rank=3, params=1, stage=0, round=1,
                digest=store.put(save(to_state(change))),
            )  # fmt: skip
        evaluate(Federation(tmp_path, config, registry, store))
    found = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert list(found["tokens"]) == list(TEXTS)
    assert [token["text"] for token in found["tokens"]["plain"]] == ["a", "b"]
    mixture = load_mixture(tmp_path / "mixture", base)
    scorer = SimpleNamespace(base=base, documents=lambda text: [TEXTS[text]])
    assert found["tokens"]["legal"] == tokens_used(scorer, mixture, "legal")
    for text in TEXTS:
        weights = found["tokens"][text][0]["weights"]
        assert len(weights) == len(found["routing"][text])  # as the report's heat map wants
