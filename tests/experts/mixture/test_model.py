import copy

import pytest
import torch

from fedmore.experts.base.model import Base
from fedmore.experts.errors import BaseError, RegistryError
from fedmore.experts.factors import num_parameters
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.mixture import checkpoint
from fedmore.experts.mixture.checkpoint import (
    Entry,
    Recipe,
    load_mixture,
    read_recipe,
    save_mixture,
)
from fedmore.experts.mixture.model import assemble
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import DomainRouter, UniformRouter
from fedmore.experts.spec import ExpertSpec

IDS = torch.arange(60).view(3, 20) * 7 % 257


class Fixed(Router):
    """The same weights of the experts for every token."""

    def __init__(self, *weights):
        super().__init__(RouterSpec("uniform", len(weights), 64))
        self.weights = [1 - sum(weights), *weights]

    def forward(self, x_BTD, slot, memory):
        return torch.tensor(self.weights).expand(*x_BTD.shape[:2], -1)


def uniform(experts):
    return UniformRouter(RouterSpec("uniform", experts, 64))


@pytest.fixture
def experts(changes):
    """Two experts and an adapter that touches attention too, of different ranks."""
    return {
        "legal": changes(ExpertSpec("legal", "expert", "legal", 4)),
        "medical": changes(ExpertSpec("medical", "expert", "medical", 9)),
        "gl": changes(ExpertSpec("gl", "adapter", "gl", 3, 2, 1)),
    }


@pytest.fixture
def domain_router(base):
    torch.manual_seed(5)
    router = DomainRouter(RouterSpec("domain", 3, 64, top_k=2))
    router.rows_ED.copy_(torch.randn(3, 64) * 20)
    return router


def test_all_weights_zero_is_the_base_bit_for_bit(base, experts, logits):
    mixture = assemble(base.model, experts, Fixed(0.0, 0.0, 0.0))
    assert torch.equal(logits(mixture.model, IDS), logits(base.model, IDS))


@pytest.mark.parametrize("chosen", ["legal", "medical", "gl"])
def test_one_expert_at_weight_1_is_the_base_with_its_change(base, experts, logits, chosen):
    weights = [float(name == chosen) for name in experts]
    mixture = assemble(base.model, experts, Fixed(*weights))
    expected = logits(with_change(base.model, experts[chosen]), IDS)
    torch.testing.assert_close(logits(mixture.model, IDS), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, logits(base.model, IDS), atol=1e-3)


def test_a_uniform_mixture_of_one_is_half_of_each_ffn(base, changes, logits):
    """`y = FFN + (FFN' - FFN) / 2` in every block, multiplied out."""
    change = changes(ExpertSpec("legal", "expert", "legal", 4))
    dense = copy.deepcopy(base.model)
    for index, block in enumerate(dense.model.layers):
        changed = copy.deepcopy(block.mlp)
        with torch.no_grad():
            for name in ("gate_proj", "up_proj", "down_proj"):
                b, a = change[f"model.layers.{index}.mlp.{name}"]
                getattr(changed, name).weight += b @ a
        block.mlp = Half(block.mlp, changed)
    mixture = assemble(base.model, {"legal": change}, uniform(1))
    expected = logits(dense, IDS)
    torch.testing.assert_close(logits(mixture.model, IDS), expected, rtol=1e-4, atol=1e-5)


class Half(torch.nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return (self.first(x) + self.second(x)) / 2


def test_every_weight_is_used_on_its_own_expert(base, experts, logits):
    """Turning the experts round turns the weights round."""
    forward = assemble(base.model, experts, Fixed(0.5, 0.2, 0.1))
    turned = assemble(base.model, dict(reversed(experts.items())), Fixed(0.1, 0.2, 0.5))
    wrong = assemble(base.model, dict(reversed(experts.items())), Fixed(0.5, 0.2, 0.1))
    expected = logits(forward.model, IDS)
    torch.testing.assert_close(logits(turned.model, IDS), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(wrong.model, IDS), expected, atol=1e-3)


def test_a_sequence_does_not_see_its_batch(base, experts, domain_router, logits):
    mixture = assemble(base.model, experts, domain_router)
    together = logits(mixture.model, IDS)
    for row in range(3):
        alone = logits(mixture.model, IDS[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_a_mixture_is_causal(base, experts, domain_router, logits):
    mixture = assemble(base.model, experts, domain_router)
    later = IDS.clone()
    later[:, 12:] = 3
    torch.testing.assert_close(
        logits(mixture.model, later)[:, :12], logits(mixture.model, IDS)[:, :12]
    )


def test_the_base_stays_as_it_was(base, experts, domain_router, logits):
    expected = logits(base.model, IDS)
    weights = {name: p.data_ptr() for name, p in base.model.named_parameters()}
    mixture = assemble(base.model, experts, domain_router)
    logits(mixture.model, IDS)
    assert torch.equal(logits(base.model, IDS), expected)
    assert {name: p.data_ptr() for name, p in base.model.named_parameters()} == weights
    assert not base.model.get_input_embeddings()._forward_hooks


def test_parameters_are_counted(base, experts, domain_router):
    mixture = assemble(base.model, experts, domain_router)
    sizes = [num_parameters(f) for f in experts.values()]
    assert mixture.base_params == base.parameters
    assert mixture.params == base.parameters + sum(sizes) + 3 * 64 + 3 + 64
    assert mixture.active_params(1) == base.parameters + max(sizes)
    assert mixture.active_params(2) == base.parameters + sum(sorted(sizes)[-2:])
    assert mixture.active_params(9) == base.parameters + sum(sizes)


def recipe(base, experts, router):
    entries = tuple(
        Entry(name, "expert", name, 4, num_parameters(f), "ab") for name, f in experts.items()
    )
    return Recipe(base.name, base.fingerprint, router.spec.table(), entries)


@pytest.mark.parametrize("kind", ["domain", "uniform"])
def test_a_saved_mixture_comes_back(base, experts, domain_router, logits, tmp_path, kind):
    router = domain_router if kind == "domain" else uniform(3)
    made = recipe(base, experts, router)
    save_mixture(tmp_path, made, experts, router)
    assert read_recipe(tmp_path) == made
    loaded = load_mixture(tmp_path, base)
    assert list(loaded.experts) == list(experts)
    assert loaded.router.spec == router.spec
    expected = logits(assemble(base.model, experts, router).model, IDS)
    assert torch.equal(logits(loaded.model, IDS), expected)


def test_saving_again_leaves_nothing_of_the_old_one(base, experts, domain_router, tmp_path):
    save_mixture(tmp_path, recipe(base, experts, domain_router), experts, domain_router)
    fewer = {"gl": experts["gl"]}
    save_mixture(tmp_path, recipe(base, fewer, uniform(1)), fewer, uniform(1))
    assert [f.stem for f in (tmp_path / "experts").iterdir()] == ["gl"]
    assert list(load_mixture(tmp_path, base).experts) == ["gl"]


def test_another_base_is_refused(base, experts, domain_router, tmp_path):
    save_mixture(tmp_path, recipe(base, experts, domain_router), experts, domain_router)
    other = Base("other", base.model, base.tokenizer, "sha256:00")
    with pytest.raises(BaseError, match=r"not sha256:00"):
        load_mixture(tmp_path, other)


def test_no_mixture_says_what_to_do(base, tmp_path):
    with pytest.raises(RegistryError, match=r"no mixture; `coordinator assemble"):
        load_mixture(tmp_path / "mixture", base)


@pytest.mark.parametrize("damage", ["{", "[]", '{"base": "x"}', '{"experts": [{"name": "x"}]}'])
def test_a_damaged_recipe_is_named(base, experts, domain_router, tmp_path, damage):
    save_mixture(tmp_path, recipe(base, experts, domain_router), experts, domain_router)
    (tmp_path / checkpoint.FILE).write_text(damage)
    with pytest.raises(RegistryError, match="damaged"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("file", ["experts/gl.safetensors", "router.safetensors"])
@pytest.mark.parametrize("damage", [None, b"", b"\x10" * 40])
def test_damaged_or_missing_tensors_are_named(base, experts, domain_router, tmp_path, file, damage):
    save_mixture(tmp_path, recipe(base, experts, domain_router), experts, domain_router)
    if damage is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(damage)
    with pytest.raises(RegistryError, match=rf"{file}: missing or damaged"):
        load_mixture(tmp_path, base)


def test_an_interrupted_save_is_no_mixture(base, experts, domain_router, tmp_path, monkeypatch):
    save_mixture(tmp_path, recipe(base, experts, domain_router), experts, domain_router)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_mixture(tmp_path, recipe(base, experts, domain_router), experts, domain_router)
    with pytest.raises(RegistryError, match="no mixture"):
        read_recipe(tmp_path)


def test_a_layer_on_its_own_says_what_to_do(base, experts, domain_router):
    mixture = assemble(base.model, experts, domain_router)
    with pytest.raises(RuntimeError, match="the router has not run"):
        mixture.model.model.layers[0].mlp(torch.zeros(1, 2, 64))
