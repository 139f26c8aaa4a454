"""A trained router over other experts: what stays, what is trained, what is refused."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.mixture.assemble import assemble, load_factors
from fedmore.coordinator.mixture.commands import AssembleOptions
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import EMBEDDINGS
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import num_parameters, to_state
from fedmore.experts.mixture.checkpoint import (
    load_experts,
    load_mixture,
    load_router_of,
    read_recipe,
)
from fedmore.experts.quantized import dequantize, quantize
from fedmore.experts.spec import ExpertSpec, ExpertStorage
from fedmore.kernels.grouped_lowrank.factors import SignTensor
from fedmore.strategies.embedding_stage.embeddings import Embedding, dump

TEXTS = {"public": "read the letter today", "legal": "the parties agree", "code": "x = y + 1"}


class Hub:
    """A registry of experts, put together with a trained router."""

    def __init__(self, registry, directory, tiny):
        self.registry, self.directory = registry, directory
        self.store = Store(directory / "blobs")
        for name, text in TEXTS.items():
            (directory / f"{name}.txt").write_text(text * 30, encoding="utf-8")
        self.config = parse_config(
            {
                "federation": {"name": "test"},
                "base": {"model": str(tiny), "dtype": "float32"},
                "router": {
                    "kind": "remix", "top_k": 1, "public_text": str(directory / "public.txt"),
                    "proxy_texts": {n: str(directory / f"{n}.txt") for n in ("legal", "code")},
                    "steps": 30, "batch_size": 2, "sequence_length": 16, "num_selections": 3,
                },
            },
            "test",
        )  # fmt: skip
        self.shapes = shapes_of(base_of(self.config).model)
        means = {f"owner of {n}": Embedding(n, 9, torch.randn(64)) for n in ("legal", "gl", "code")}
        registry.set_state(EMBEDDINGS, self.store.put(dump(means)))

    def add(self, name, rank, *layers):
        kind = "adapter" if layers else "expert"
        sites = ExpertSpec(name, kind, name, rank, *layers).sites(self.shapes)
        change = {
            s.path: (torch.randn(s.out_features, rank) * 0.1, torch.randn(rank, s.in_features))
            for s in sites
        }
        self.registry.add_expert(
            name=name, kind=kind, target=name, rank=rank, params=num_parameters(change), stage=0,
            round=1, digest=self.store.put(save(to_state(change))),
        )  # fmt: skip

    def build(self, *experts, keep_router=False, keeping=ExpertStorage.fp32, **router):
        config = replace(self.config, router=replace(self.config.router, **router))
        federation = Federation(self.directory, config, self.registry, self.store)
        return assemble(federation, experts, keep_router=keep_router, keeping=keeping)


@pytest.fixture
def hub(tiny, tmp_path):
    with Registry.open(tmp_path) as registry:
        made = Hub(registry, tmp_path, tiny)
        for name, rank in (("legal", 4), ("gl", 3), ("code", 5)):
            made.add(name, rank)
        yield made


def rows(folder):
    recipe, router = load_router_of(folder)
    names = ["public", *(e.name for e in recipe.experts)]
    return {n: (router.rows_LAD[0, i], router.bias_LA[0, i]) for i, n in enumerate(names)}


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("keeping", list(ExpertStorage))
@pytest.mark.parametrize("rate", [0.0, 1e-2])
def test_experts_that_are_trained_with_the_router_are_what_is_saved(hub, keeping, rate):
    """Kept as sign1 they are rounded before they are trained, for it is these that are used."""
    folder = hub.build(
        "gl",
        "legal",
        keeping=keeping,
        kind="softmax",
        experts_learning_rate=rate,
        steps=2,
        num_selections=0,
        top_k=0,
    )
    for name, saved in load_experts(folder, read_recipe(folder)).items():
        known = load_factors(hub.store, hub.registry.latest(name))
        used, rounded = dequantize(saved), dequantize(quantize(known, keeping))
        alike = [same(pair, rounded[path]) for path, pair in used.items()]
        assert not any(alike) if rate else all(alike), name
        kept = {isinstance(factor, SignTensor) for pair in saved.values() for factor in pair}
        assert kept == {keeping == ExpertStorage.sign1}


@pytest.mark.parametrize("start", ["zero", "domain"])
def test_a_new_expert_is_trained_alone(hub, start):
    before = rows(hub.build("gl", "legal", init=start))
    folder = hub.build("code", "gl", "legal", keep_router=True, init=start)
    after = rows(folder)
    assert list(after) == ["public", "gl", "legal", "code"]  # the new one behind the others
    assert all(same(after[name], before[name]) for name in before)
    assert not same(after["code"], after["public"])
    assert any(t.abs().sum() > 0 for t in before["legal"])
    mixture = load_mixture(folder, base_of(hub.config))
    ids = torch.arange(12)[None]
    assert torch.isfinite(mixture.model(input_ids=ids, use_cache=False).logits).all()
    if start == "domain":
        assert mixture.router.domain.rows_ED[2].abs().sum() > 0


def test_an_expert_that_is_no_more_takes_its_row_with_it(hub):
    before = rows(hub.build("code", "gl", "legal"))
    after = rows(hub.build("code", "legal", keep_router=True))
    assert list(after) == ["public", "code", "legal"]
    assert all(same(after[name], before[name]) for name in after)


def test_fewer_than_a_tenth_of_the_steps_are_done(hub, monkeypatch):
    from fedmore.coordinator.mixture import router_extension

    done = []

    def watched(_mixture, _windows, training):
        done.append(training)

    hub.build("gl", "legal")
    monkeypatch.setattr(router_extension, "train_router", watched)
    hub.build("code", "gl", "legal", keep_router=True)
    (training,) = done
    assert 0 < training.steps < 0.1 * hub.config.router.steps
    assert training.only == (3,)


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        ({"kind": "arrow"}, {"kind": "arrow"}, "arrow is set, not trained"),
        ({}, {"top_k": 2}, "the configuration asks for"),
        ({}, {"kind": "softmax"}, "the configuration asks for"),
    ],
)
def test_a_router_that_cannot_go_on_is_refused(hub, first, then, says):
    hub.build("gl", "legal", **first)
    with pytest.raises(ConfigError, match=says):
        hub.build("code", "gl", "legal", keep_router=True, **then)


def test_decisions_of_other_blocks_are_refused(hub):
    """As many, so nothing but the blocks tells that rows would go to the wrong layers."""
    hub.add("et", 2, 1, 1)
    hub.add("es", 2, 2, 0)
    hub.build("et", per_layer=True)
    with pytest.raises(ConfigError, match=r"in the blocks \[0, 5\], these experts change \[0, 1\]"):
        hub.build("es", keep_router=True, per_layer=True)


def test_what_is_not_chosen_is_as_configured(hub):
    config = hub.config
    assert AssembleOptions().configured(config) == config
    chosen = AssembleOptions(router="arrow", top_k=3).configured(config).router
    assert (chosen.kind, chosen.top_k) == ("arrow", 3)
    assert replace(chosen, kind="remix", top_k=1) == config.router
