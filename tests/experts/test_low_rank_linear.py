import copy

import pytest
import torch

from fedmore.experts.low_rank_linear import LowRankLinear, combine, overlay, share, with_change
from fedmore.experts.spec import ExpertSpec

IDS = torch.arange(40).view(2, 20) * 5 % 257


@pytest.fixture
def spec():
    return ExpertSpec("gl", "adapter", "gl", 4, 2, 1)


def dense(base, *factors):
    """A deep copy of the base with the changes multiplied out and added."""
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for change in factors:
            for path, (b, a) in change.items():
                model.get_submodule(path).weight += b @ a
    return model


def test_a_shared_copy_holds_the_same_storage(base):
    copied = share(base.model)
    assert copied is not base.model
    mine, theirs = dict(base.model.named_parameters()), dict(copied.named_parameters())
    assert list(mine) == list(theirs)
    assert all(mine[name] is theirs[name] for name in mine)
    assert copied.lm_head.weight is copied.get_input_embeddings().weight


def test_a_change_is_what_adding_the_product_gives(base, spec, changes, logits):
    change = changes(spec)
    found = logits(with_change(base.model, change), IDS)
    torch.testing.assert_close(found, logits(dense(base, change), IDS), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, logits(base.model, IDS), atol=1e-3)


def test_the_base_stays_as_it_was(base, spec, changes, logits):
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    storage = {name: p.data_ptr() for name, p in base.model.named_parameters()}
    expected, modules = logits(base.model, IDS), list(base.model.modules())
    copied = share(base.model)
    sites = spec.sites(
        {s.path: (s.out_features, s.in_features) for s in spec.sites(shapes_of(base))}
    )
    for path, layer in overlay(copied, changes(spec), sites).items():
        layer.trainable(changes(spec)[path], 2.0)
    copied(input_ids=IDS).logits.sum().backward()
    assert torch.equal(logits(base.model, IDS), expected)
    assert all(a is b for a, b in zip(base.model.modules(), modules, strict=True))
    for name, p in base.model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.data_ptr() == storage[name]
        assert p.grad is None


def shapes_of(base):
    from fedmore.experts.base.model import shapes_of as shapes

    return shapes(base.model)


def test_frozen_and_trainable_add_up(base, spec, changes, logits):
    frozen, own = changes(spec), changes(spec)
    copied = share(base.model)
    layers = overlay(copied, frozen, spec.sites(shapes_of(base)))
    for path, layer in layers.items():
        layer.trainable(own[path], 0.5)
    half = {p: (0.5 * b, a) for p, (b, a) in own.items()}
    expected = logits(dense(base, frozen, half), IDS)
    torch.testing.assert_close(logits(copied, IDS), expected, rtol=1e-4, atol=1e-5)
    names = {name.rpartition(".")[2] for name, p in copied.named_parameters() if p.requires_grad}
    assert names == {"lora_A", "lora_B"}


def test_trainable_starts_at_copies(changes, spec, base):
    path, (b, a) = next(iter(changes(spec).items()))
    layer = LowRankLinear(base.model.get_submodule(path))
    layer.trainable((b, a), 1.0)
    with torch.no_grad():
        layer.lora_A += 1
        layer.lora_B += 1
    assert a.abs().max() < 0.9
    assert b.abs().max() < 0.9


def test_a_frozen_change_of_rank_0_changes_nothing(base, logits):
    spec = ExpertSpec("legal", "expert", "legal", 1)
    nothing = {
        s.path: (torch.zeros(s.out_features, 0), torch.zeros(0, s.in_features))
        for s in spec.sites(shapes_of(base))
    }
    assert torch.equal(logits(with_change(base.model, nothing), IDS), logits(base.model, IDS))


def test_changes_are_moved_to_the_layers_device():
    """The aggregate arrives on the CPU wherever the model is."""
    model = torch.nn.ModuleDict({"up": torch.nn.Linear(4, 3, device="meta")})
    spec_site = type("S", (), {"path": "up"})
    layers = overlay(model, {"up": (torch.zeros(3, 2), torch.zeros(2, 4))}, [spec_site])
    assert {t.device.type for t in layers["up"].frozen} == {"meta"}


def test_combine_is_the_weighted_sum(changes, spec):
    first, second = changes(spec), changes(ExpertSpec("gl", "adapter", "gl", 7, 2, 1))
    for path, (b, a) in combine([(first, 0.25), (second, -2.0)]).items():
        assert a.shape[0] == 11
        expected = 0.25 * first[path][0] @ first[path][1] - 2 * second[path][0] @ second[path][1]
        torch.testing.assert_close(b @ a, expected)
