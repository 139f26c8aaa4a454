"""Experts kept as sign1: what they stand for, on disk and in a mixture."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedmore.experts.base.model import load_base
from fedmore.experts.errors import RegistryError
from fedmore.experts.factors import empty, num_parameters
from fedmore.experts.mixture.checkpoint import (
    Entry,
    Recipe,
    load_experts,
    load_mixture,
    save_mixture,
)
from fedmore.experts.mixture.model import assemble
from fedmore.experts.quantized import dequantize, from_state, quantize, to_state
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import UniformRouter
from fedmore.experts.spec import ExpertSpec, ExpertStorage
from fedmore.kernels.grouped_lowrank.factors import SignTensor

IDS = torch.arange(30).view(2, 15) * 7 % 257
SPECS = (ExpertSpec("legal", "expert", "legal", 5), ExpertSpec("gl", "adapter", "gl", 3, 2, 1))


@pytest.fixture
def experts(changes):
    return {spec.name: changes(spec) for spec in SPECS}


@pytest.fixture
def as_signs(experts):
    return {name: quantize(change, ExpertStorage.sign1) for name, change in experts.items()}


@pytest.fixture
def router():
    return UniformRouter(RouterSpec("uniform", 2, 64))


def same(one, other):
    assert one.keys() == other.keys()
    for path, pair in one.items():
        for a, b in zip(pair, other[path], strict=True):
            assert torch.equal(a, b), path


def test_a_number_is_a_sign_and_the_scale_of_256_of_one_rank(as_signs):
    for b, a in dequantize(as_signs["legal"]).values():
        for rows in (a, b.T):
            for block in rows.reshape(-1).split(256):
                assert len(block.abs().unique()) == 1


def closeness(used, exact):
    """Cosine of all sites' products together."""
    pairs = [((b @ a), (exact[p][0] @ exact[p][1])) for p, (b, a) in used.items()]
    inner = sum((one * other).sum() for one, other in pairs)
    sizes = [sum(each[i].square().sum() for each in pairs).sqrt() for i in (0, 1)]
    return float(inner / sizes[0] / sizes[1])


def test_the_product_is_closer_than_that_of_rounded_factors(shapes):
    """On factors as an SVD leaves them: the columns of one and the rows of the other get small."""
    generator, sizes = torch.Generator().manual_seed(0), torch.logspace(0, -1.2, 16)
    exact = {}
    for site in SPECS[0].sites(shapes):
        b, a = (
            torch.randn(n, 16, generator=generator) for n in (site.out_features, site.in_features)
        )
        exact[site.path] = (b * sizes, (a * sizes).T.contiguous())
    rounded = {
        p: (SignTensor.of(b).dense(), SignTensor.of(a).dense()) for p, (b, a) in exact.items()
    }
    used = dequantize(quantize(exact, ExpertStorage.sign1))
    assert closeness(rounded, exact) < 0.6
    assert closeness(used, exact) > 0.79  # turned alone, not fitted: 0.77
    same(dequantize(quantize(exact, ExpertStorage.sign1)), used)


def test_fp32_is_as_it_is(experts):
    assert quantize(experts["gl"], ExpertStorage.fp32) is experts["gl"]
    same(dequantize(experts["gl"]), experts["gl"])


def test_a_mixture_decodes_them_as_it_goes(base, as_signs, router):
    """The same bits as of the decoded numbers, kept in a thirtieth of the bytes."""
    kept = assemble(base.model, as_signs, router)
    decoded = assemble(base.model, {n: dequantize(e) for n, e in as_signs.items()}, router)
    with torch.no_grad():
        assert torch.equal(kept.model(input_ids=IDS).logits, decoded.model(input_ids=IDS).logits)
    assert kept.params == decoded.params
    assert kept.active_params(1) == decoded.active_params(1)


def test_trained_they_are_numbers_again(base, as_signs, router):
    mixture = assemble(base.model, as_signs, router, trainable=True)
    mixture.model(input_ids=IDS, labels=IDS).loss.backward()
    grads = [f.grad for e in mixture.trained.values() for pair in e.values() for f in pair]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_over_a_bfloat16_base(tiny, as_signs, router):
    half = load_base(str(tiny), "bfloat16")
    logits = assemble(half.model, as_signs, router).model(input_ids=IDS).logits
    decoded = {name: dequantize(kept) for name, kept in as_signs.items()}
    assert logits.dtype == torch.bfloat16
    assert torch.equal(logits, assemble(half.model, decoded, router).model(input_ids=IDS).logits)


@pytest.fixture
def saved(base, as_signs, router, tmp_path):
    entries = tuple(Entry(s.name, s.kind, s.target, s.rank, 1, "ab") for s in SPECS)
    recipe = Recipe(base.name, base.fingerprint, router.spec.table(), entries)
    save_mixture(tmp_path, recipe, as_signs, router)
    return tmp_path, recipe


def test_saved_and_loaded_they_are_the_same(base, as_signs, router, saved):
    folder, recipe = saved
    for name, kept in load_experts(folder, recipe).items():
        same(dequantize(kept), dequantize(as_signs[name]))
    wanted = assemble(base.model, as_signs, router).model(input_ids=IDS).logits
    assert torch.equal(load_mixture(folder, base).model(input_ids=IDS).logits, wanted)


def test_the_file_has_a_bit_a_number_and_a_scale_a_block(as_signs, saved):
    tensors = load_file(saved[0] / "experts" / "legal.safetensors")
    stored = sum(t.nbytes for key, t in tensors.items() if not key.endswith(".shape"))
    factors = [f for pair in as_signs["legal"].values() for f in pair]
    assert stored == sum(-(-f.numel() // 8) + 2 * -(-f.numel() // 256) for f in factors)
    assert stored < num_parameters(as_signs["legal"]) * 4 / 28


@pytest.mark.parametrize(
    "damage",
    [
        lambda t, key: t.pop(f"{key}.bits"),
        lambda t, key: t.update({f"{key}.bits": t[f"{key}.bits"][:-1].clone()}),
        lambda t, key: t.update({f"{key}.scales": t[f"{key}.scales"][:-1].clone()}),
        lambda t, key: t.update({f"{key}.shape": torch.tensor([5])}),
        lambda t, key: t.update({f"{key}.shape": -t[f"{key}.shape"]}),
        lambda t, key: t.update({f"{key}.shape": t[f"{key}.shape"] * 1000}),
    ],
)
def test_a_damaged_file_is_named(saved, damage):
    folder, recipe = saved
    file = folder / "experts" / "legal.safetensors"
    tensors = load_file(file)
    damage(tensors, next(key for key in tensors if key.endswith(".shape")).removesuffix(".shape"))
    save_file(tensors, file)
    with pytest.raises(RegistryError, match=r"legal\.safetensors: damaged .*coordinator assemble"):
        load_experts(folder, recipe)


def test_rank_0_too(shapes):
    nothing = empty(SPECS[1].sites(shapes))
    same(dequantize(from_state(to_state(quantize(nothing, ExpertStorage.sign1)))), nothing)
