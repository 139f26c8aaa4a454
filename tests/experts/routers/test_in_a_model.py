"""What every router promises inside a mixture: caches, padding, disk, and what is refused."""

import copy

import pytest
import torch
from thinning import rarer_slow

from fedmore.experts.base.model import load_base
from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.checkpoint import Recipe, load_mixture, save_mixture
from fedmore.experts.mixture.model import assemble, routed_blocks
from fedmore.experts.router_training.usage import by_decision, usage
from fedmore.experts.routers.serialization import dump_router, load_router

T = 14
IDS = torch.arange(3 * T).view(3, T) * 7 % 257


@torch.no_grad()
def in_pieces(model, ids, sizes, mask=None):
    found, cache, seen = [], None, 0
    for size in sizes:
        given = None if mask is None else mask[:, : seen + size]
        out = model(
            input_ids=ids[:, seen : seen + size], attention_mask=given, past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        cache, seen = out.past_key_values, seen + size
        found.append(out.logits)
    return torch.cat(found, 1)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_causal_and_blind_to_the_batch(mixture, logits):
    full = logits(mixture.model, IDS)
    later = IDS.clone()
    later[:, 8:] = 3
    close(logits(mixture.model, later)[:, :8], full[:, :8])
    for row in range(3):
        close(logits(mixture.model, IDS[row : row + 1])[0], full[row])


@pytest.mark.parametrize(
    "sizes", rarer_slow([[1] * T, [6, 1, 1, 4, 2]], [[6, 1, 1, 4, 2]]), ids=["tokens", "pieces"]
)
def test_a_cache_gives_what_one_pass_gives(mixture, logits, sizes):
    close(in_pieces(mixture.model, IDS, sizes), logits(mixture.model, IDS))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(mixture, logits, side):
    real = 9
    place = slice(T - real, T) if side == "left" else slice(real)
    mask, padded = torch.ones_like(IDS), IDS.clone()
    mask[0], padded[0] = 0, 11
    mask[0, place], padded[0, place] = 1, IDS[0, :real]
    whole = mixture.model(input_ids=padded, attention_mask=mask, use_cache=False).logits
    pieces = in_pieces(mixture.model, padded, [6, 6, 1, 1], mask)
    for found in (whole.detach(), pieces):
        close(found[0, place], logits(mixture.model, IDS[:1, :real])[0])
        close(found[1:], logits(mixture.model, IDS[1:]))


def test_saved_and_loaded_it_gives_the_same_bits(base, experts, router, mixture, logits, tmp_path):
    recipe = Recipe(base.name, base.fingerprint, router.spec.table(), entries(experts))
    save_mixture(tmp_path, recipe, experts, router)
    loaded = load_mixture(tmp_path, base)
    assert type(loaded.router) is type(router)
    assert loaded.router.spec == router.spec
    assert torch.equal(logits(loaded.model, IDS), logits(mixture.model, IDS))


def test_dumped_and_loaded_it_is_the_same(router, weights):
    again, names = load_router(dump_router(router, ["legal", "medical", "gl"]))
    assert names == ["legal", "medical", "gl"]
    assert again.spec == router.spec
    x = torch.randn(2, 7, 64)
    assert torch.equal(weights(again, x), weights(router, x))


def entries(experts):
    from fedmore.experts.mixture.checkpoint import Entry

    return tuple(Entry(name, "expert", name, 4, 1, "ab") for name in experts)


def test_its_weights_are_what_the_layers_use(base, experts, mixture, logits):
    """`usage` tells them; forced upon the layers where all decisions are alike, nothing changes."""
    found = by_decision(mixture, IDS).view(-1, 3, T, 4)
    assert torch.equal(usage(mixture, IDS), found.mean(0).flatten(0, 1))
    if not mixture.router.shared:
        assert len(found) == len(mixture.gates.blocks)
        return
    assert len(found) == 1
    last = found[0, :, -1].float()
    with mixture.gates.asking(forced=last):
        forced = logits(mixture.model, IDS)
    same = (found[0] == found[0, :, -1:]).all(-1).all(-1)
    close(forced[same], logits(mixture.model, IDS)[same])


def test_generation_with_a_cache_is_greedy_decoding(mixture, logits):
    prompt = IDS[:1, :8]
    with torch.no_grad():
        found = mixture.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    expected = prompt
    for _ in range(5):
        following = logits(mixture.model, expected)[:, -1:].argmax(-1)
        expected = torch.cat([expected, following], 1)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_texts_take_turns(mixture, logits):
    """Each goes on in its own cache; one is copied, and one is cropped on the way."""
    model = mixture.model
    first = model(input_ids=IDS[:1, :6], use_cache=True).past_key_values
    second = model(input_ids=IDS[1:2, :9], use_cache=True).past_key_values
    third = copy.deepcopy(second)
    second.crop(-5)
    for row, cache, at in ((0, first, 6), (1, second, 4), (1, third, 9)):
        found = model(input_ids=IDS[row : row + 1, at:], past_key_values=cache).logits
        close(found, logits(model, IDS[row : row + 1])[:, at:])


def test_another_number_of_experts_or_blocks_is_refused(base, experts, case):
    router = case.make(base, experts)
    fewer = {name: experts[name] for name in ("legal", "gl")}
    with pytest.raises(ConfigError, match=r"for 3 experts and \d decisions, the mixture has 2"):
        assemble(base.model, fewer, router)
    blocks = len(routed_blocks(experts))
    router.spec = case.spec(3, blocks - 1)
    if router.spec.layers > 1:
        with pytest.raises(
            ConfigError, match=r"3 experts and 5 decisions, the mixture has 3 and 6"
        ):
            assemble(base.model, experts, router)


@pytest.mark.parametrize(
    "case",
    ["domain-2-shared-sequence", "arrow-2-layers-token", "xlora-2-layers-request",
     "remix-2-shared-sequence", "softmax-2-layers-token"],
    indirect=True,
)  # fmt: skip
def test_in_bfloat16(tiny, experts, case, logits):
    half = load_base(str(tiny), "bfloat16")
    mixture = assemble(half.model, experts, case.make(half, experts))
    full = logits(mixture.model, IDS)
    assert full.dtype == torch.bfloat16
    pieces = in_pieces(mixture.model, IDS, [6, 1, 7])
    # One rounding of the hidden states may turn a choice; the bulk of the tokens is the same.
    near = (pieces - full).abs().amax(-1) < 0.05
    assert near.float().mean() > 0.9
    found = usage(mixture, IDS)
    with mixture.gates.asking(forced=torch.eye(4)[[0, 1, 3]]):
        assert torch.isfinite(logits(mixture.model, IDS)).all()
    assert torch.isfinite(found).all()
