"""From experts in the registry to a mixture on disk, without a run."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.mixture.assemble import assemble, load_factors
from fedmore.coordinator.mixture.router_factory import public_embeddings
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import EMBEDDINGS
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import ConfigError, DataError, RegistryError
from fedmore.experts.factors import num_parameters, to_state
from fedmore.experts.mixture.checkpoint import load_experts, load_mixture, read_recipe
from fedmore.experts.mixture.model import routed_blocks
from fedmore.experts.quantized import dequantize, quantize
from fedmore.experts.routers.static import DomainRouter, UniformRouter, arrow_router
from fedmore.experts.spec import ExpertSpec, ExpertStorage
from fedmore.kernels.grouped_lowrank.factors import SignTensor
from fedmore.strategies.embedding_stage.embeddings import Embedding, dump

PUBLIC = ["read the letter today", "open the door later", "keep the key"]


@pytest.fixture
def config(tiny, tmp_path):
    (tmp_path / "public.txt").write_text("\n".join(PUBLIC), encoding="utf-8")
    return parse_config(
        {
            "federation": {"name": "test"},
            "base": {"model": str(tiny), "dtype": "float32"},
            "router": {"public_text": str(tmp_path / "public.txt"), "top_k": 2},
        },
        "test",
    )


@pytest.fixture
def kept(config, tmp_path):
    """A registry with two versions of `legal`, one of `gl`; `build` assembles."""
    with Registry.open(tmp_path) as registry:
        yield Kept(config, tmp_path, registry, Store(tmp_path / "blobs"))


class Kept:
    def __init__(self, config, directory, registry, store):
        self.config, self.directory = config, directory
        self.registry, self.store = registry, store
        self.shapes = shapes_of(base_of(config).model)
        self.add("legal", "expert", 2, 1)
        self.add("gl", "adapter", 3, 1)
        self.newest = self.add("legal", "expert", 4, 2)

    def add(self, name, kind, rank, number):
        sites = ExpertSpec(name, kind, name, rank, 1, 1).sites(self.shapes)
        change = {
            s.path: (torch.randn(s.out_features, rank) * 0.1, torch.randn(rank, s.in_features))
            for s in sites
        }
        digest = self.store.put(save(to_state(change)))
        self.registry.add_expert(
            name=name, kind=kind, target=name, rank=rank, params=num_parameters(change), stage=0,
            round=number, digest=digest,
        )  # fmt: skip
        return digest

    def embed(self, *names):
        sent = {f"owner of {name}": Embedding(name, 100, torch.randn(64)) for name in names}
        self.registry.set_state(EMBEDDINGS, self.store.put(dump(sent)))

    def build(self, experts=("gl", "legal"), keeping=ExpertStorage.fp32, **router):
        config = replace(self.config, router=replace(self.config.router, **router))
        federation = Federation(self.directory, config, self.registry, self.store)
        return assemble(federation, experts, keeping=keeping)


def test_the_newest_versions_are_put_together(kept):
    kept.embed("legal", "gl", "another")
    folder = kept.build()
    recipe = read_recipe(folder)
    assert folder == kept.directory / "mixture"
    assert [(e.name, e.kind, e.rank) for e in recipe.experts] == [
        ("gl", "adapter", 3),
        ("legal", "expert", 4),
    ]
    assert recipe.experts[1].digest == kept.newest
    assert (recipe.router["kind"], recipe.router["top_k"]) == ("domain", 2)
    mixture = load_mixture(folder, base_of(kept.config))
    assert isinstance(mixture.router, DomainRouter)
    assert mixture.router.rows_ED.shape == (2, 64)


def test_some_of_the_experts(kept):
    kept.embed("legal", "gl")
    assert [e.name for e in read_recipe(kept.build(("legal",))).experts] == ["legal"]


def test_a_uniform_router_needs_no_embeddings(kept):
    mixture = load_mixture(kept.build(kind="uniform"), base_of(kept.config))
    assert isinstance(mixture.router, UniformRouter)


@pytest.mark.parametrize("known", [(), ("gl",)])
def test_without_an_embedding_it_says_what_to_do(kept, known):
    if known:
        kept.embed(*known)
    with pytest.raises(RegistryError, match=r"no domain embedding of .*legal: .*--router uniform"):
        kept.build()
    assert not (kept.directory / "mixture").exists()


def test_kept_as_sign1_it_is_routed_by_what_is_left_of_the_experts(kept):
    folder = kept.build(keeping=ExpertStorage.sign1, kind="arrow")
    base, recipe = base_of(kept.config), read_recipe(folder)
    used = {name: dequantize(each) for name, each in load_experts(folder, recipe).items()}
    for name, change in used.items():
        rounded = dequantize(
            quantize(load_factors(kept.store, kept.registry.latest(name)), ExpertStorage.sign1)
        )
        assert all(torch.equal(b, rounded[path][0]) for path, (b, _) in change.items())
    mixture = load_mixture(folder, base)
    assert isinstance(next(iter(mixture.experts["gl"].values()))[0], SignTensor)
    blocks = routed_blocks(used)
    wanted = arrow_router(mixture.router.spec, used, blocks)
    found = mixture.router.prototypes_LED.abs()  # whose sign is nobody's business
    torch.testing.assert_close(found, wanted.prototypes_LED.abs())
    assert [e.params for e in recipe.experts] == [
        num_parameters(used[e.name]) for e in recipe.experts
    ]


def test_an_unknown_expert_is_named(kept):
    with pytest.raises(RegistryError, match="no expert named 'medical'; there are: gl, legal"):
        kept.build(("medical",))


def test_public_text_is_needed_and_must_be_there(kept):
    kept.embed("legal", "gl")
    with pytest.raises(ConfigError, match=r"router\.public_text"):
        kept.build(public_text="")
    with pytest.raises(DataError, match="no such file"):
        kept.build(public_text=str(kept.directory / "gone.txt"))


def test_a_blob_that_is_gone_is_named(kept):
    kept.embed("legal", "gl")
    kept.store.path(kept.newest).unlink()
    with pytest.raises(RegistryError, match=kept.newest):
        kept.build()


def test_public_embeddings_are_the_input_embeddings_of_the_text(config):
    base = base_of(config)
    ids = base.text.plain("\n".join(PUBLIC))[:128]
    expected = base.model.get_input_embeddings().weight[ids]
    assert torch.equal(public_embeddings(config, base), expected)
