"""evaluation.json against the same scores worked out here."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.mixture import evaluate as evaluates
from fedmore.coordinator.mixture.assemble import assemble
from fedmore.coordinator.mixture.evaluate import Scorer, after_stage, evaluate
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import FORGETTING
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import RegistryError
from fedmore.experts.factors import num_parameters, to_state
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.mixture.model import assemble as build
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import UniformRouter
from fedmore.experts.scoring import bits_per_byte as scoring
from fedmore.experts.spec import ExpertSpec
from fedmore.sims.data.tiny_model import make_tiny_base

TEXTS = {
    "legal": ["the parties agree", "this licence grants", "no warranty"],
    "plain": ["read the letter", "open the door"],
    "sums": ["1 + 1 = 2;"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A federation with one expert and its evaluation, worked out once."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("federation")
    for name, documents in TEXTS.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8"
        )
    config = parse_config(
        {
            "federation": {"name": "test"},
            "base": {"model": str(make_tiny_base(folder / "base")), "dtype": "float32"},
            "router": {"kind": "uniform"},
            "evaluation": {
                "texts": {name: str(folder / f"{name}.jsonl") for name in TEXTS},
                "documents": 2,
                "tokens": 30,
            },
        },
        "test",
    )
    with Registry.open(folder) as registry:
        yield Made(config, folder, registry, Store(folder / "blobs"))


class Made:
    def __init__(self, config, directory, registry, store):
        self.config, self.directory = config, directory
        self.federation = Federation(directory, config, registry, store)
        self.registry, self.store = registry, store
        self.scorer = Scorer(config)
        self.base = self.scorer.base
        sites = ExpertSpec("legal", "expert", "legal", 3).sites(shapes_of(self.base.model))
        self.change = {
            s.path: (torch.randn(s.out_features, 3) * 0.1, torch.randn(3, s.in_features) * 0.3)
            for s in sites
        }
        registry.add_expert(
            name="legal", kind="expert", target="legal", rank=3, params=num_parameters(self.change),
            stage=0, round=1, digest=store.put(save(to_state(self.change))),
        )  # fmt: skip
        self.forgetting = after_stage(self.scorer, self.federation, "experts", ["legal"])
        registry.set_state(FORGETTING, [self.forgetting])
        assemble(self.federation, ["legal"])
        self.found = evaluate(self.federation)

    def scored(self, model, text):
        documents = self.scorer.documents(text)
        return scoring.score(model, self.base.text, documents, 30, batch=1)


@pytest.fixture
def mixture(made):
    return build(
        made.base.model, {"legal": made.change}, UniformRouter(RouterSpec("uniform", 1, 64))
    )


@pytest.mark.parametrize("text", TEXTS)
def test_scores(made, mixture, text):
    row = made.found["bits_per_byte"][text]
    models = {"base": made.base.model, "mixture": mixture.model}
    if text == "legal":
        models["own_expert"] = with_change(made.base.model, made.change)
    for name, model in models.items():
        scores = made.scored(model, text)
        assert row[name]["mean"] == pytest.approx(scoring.mean_bits_per_byte(scores), rel=1e-5)
        expected = scoring.interval(scores)  # None of a single document
        assert (row[name]["ci95"] is None) == (expected is None) == (text == "sums")
        assert expected is None or row[name]["ci95"] == pytest.approx(expected, rel=1e-4)
    assert (row["own_expert"] is None) == (text != "legal")
    assert row["mixture"]["mean"] != row["base"]["mean"]


def test_differences_are_paired(made, mixture):
    base, changed = made.scored(made.base.model, "legal"), made.scored(mixture.model, "legal")
    found = made.found["paired"]["legal"]["mixture"]
    assert found["mean"] == pytest.approx(scoring.difference(changed, base)["mean"], rel=1e-4)
    row = made.found["bits_per_byte"]["legal"]
    assert found["mean"] == pytest.approx(row["mixture"]["mean"] - row["base"]["mean"], rel=1e-6)
    assert made.found["paired"]["sums"]["own_expert"] is None


def test_the_gain_kept_is_of_the_same_documents(made, mixture):
    own = with_change(made.base.model, made.change)
    scores = [made.scored(model, "legal") for model in (made.base.model, own, mixture.model)]
    expected = scoring.gain_kept(*scores)
    found = made.found["paired"]["legal"]["gain_kept"]
    assert (found is None) == (expected is None)
    assert found is None or found["mean"] == pytest.approx(expected["mean"], rel=1e-3)
    assert made.found["paired"]["plain"]["gain_kept"] is None


def test_it_is_told_how_far_the_scoring_is(made):
    told = []
    scorer = Scorer(made.config, told.append)
    after_stage(scorer, made.federation, "experts", ["legal"])
    stage = [event for event in told if event.name == "the stage experts"]
    assert [(event.done, event.total) for event in stage] == [(i, len(stage) - 1) for i in range(3)]
    evaluate(made.federation, scorer)
    mixture = [event for event in told if event.name == "the mixture"]
    total = 3 * len(TEXTS) + 1  # base, mixture and routing of each, and the one owner's expert
    assert [(event.done, event.total) for event in mixture] == [
        (i, total) for i in range(total + 1)
    ]


def test_the_file_holds_what_is_returned(made):
    file = made.directory / "evaluation.json"
    assert json.loads(file.read_text(encoding="utf-8")) == made.found


def test_again_gives_the_same(made):
    assert evaluate(made.federation) == made.found
    assert evaluate(made.federation, made.scorer) == made.found


def test_parameters_and_router(made, mixture):
    assert made.found["mixture"] == {
        "params": made.base.parameters + num_parameters(made.change),
        "active_params": made.base.parameters + num_parameters(made.change),
        "router": "uniform",
        "top_k": 2,
    }
    assert made.found["base"]["fingerprint"] == made.base.fingerprint
    assert mixture.params == made.found["mixture"]["params"]


def test_routing_is_the_mean_weight_and_sums_to_1(made):
    for weights in made.found["routing"].values():
        assert weights == pytest.approx({"public": 0.5, "legal": 0.5})


def test_forgetting_has_a_row_a_stage_of_the_texts_seen_so_far(made):
    first, last = made.found["forgetting"]
    assert first == made.forgetting
    assert (first["stage"], first["router"]) == ("experts", "uniform")
    assert (last["stage"], last["router"]) == ("router", "uniform")
    assert set(first["bits_per_byte"]) == set(last["bits_per_byte"]) == {"legal", "plain"}
    assert last["bits_per_byte"]["plain"] == made.found["bits_per_byte"]["plain"]["mixture"]
    # One expert, one router: both entries are of the same mixture.
    for text, row in first["bits_per_byte"].items():
        assert row["mean"] == pytest.approx(last["bits_per_byte"][text]["mean"], rel=1e-5)


def test_the_documents_are_drawn_once_and_the_base_is_scored_once(made, monkeypatch):
    scorer = Scorer(made.config)
    first = scorer.of_base("legal")
    assert len(scorer.documents("legal")) == 2
    assert scorer.documents("legal") is scorer.documents("legal")
    monkeypatch.setattr(evaluates.scoring, "score", None)
    assert scorer.of_base("legal") is first


def test_without_a_mixture_it_says_what_to_do(made, tmp_path):
    with pytest.raises(RegistryError, match="no mixture; `coordinator assemble"):
        evaluate(replace(made.federation, directory=tmp_path))
