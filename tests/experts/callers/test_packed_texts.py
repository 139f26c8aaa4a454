"""Texts in one row, told apart by positions or by a 4-D mask, give what each gives alone."""

import pytest
import torch
from transformers.cache_utils import DynamicCache, StaticCache

from fedmore.experts.errors import ConfigError

IDS = torch.arange(4 * 16).view(4, 16) * 29 % 251
LENGTHS = (7, 1, 5, 9)
TEXTS = [IDS[row, :length] for row, length in enumerate(LENGTHS)]
ROW = torch.cat(TEXTS)[None]
PLACES = torch.cat([torch.arange(length) for length in LENGTHS])[None]
NUMBERS = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
TOKENS = ROW.shape[1]
LOWEST = torch.finfo(torch.float64).min


def block_mask():
    """Every token sees its own text up to itself, [1, 1, T, T]."""
    same = NUMBERS[:, None] == NUMBERS
    return (same & torch.ones(TOKENS, TOKENS).tril().bool())[None, None]


def additive(mask):
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, LOWEST)


def by_hand(case):
    return torch.cat([case.by_hand(text) for text in TEXTS])


WAYS = {
    "positions": {"position_ids": PLACES, "use_cache": False},
    "mask": {"attention_mask": block_mask(), "position_ids": PLACES},
    "additive mask": {"attention_mask": additive(block_mask()), "position_ids": PLACES},
    "a mask for each kind of layer": {
        "attention_mask": {"full_attention": block_mask()}, "position_ids": PLACES,
    },
}  # fmt: skip


@pytest.mark.parametrize("way", [name for name in WAYS if "kind" not in name])
@torch.no_grad()
def test_packed_texts_are_texts_alone(case, way):
    case.close(case.model(ROW, **WAYS[way]).logits[0], by_hand(case))


@torch.no_grad()
def test_two_rows_are_packed_differently(case):
    """The second row's first text is as long as the first row's first two."""
    other = torch.cat([IDS[3, :8], IDS[1, :14]])
    places = torch.cat([PLACES, torch.cat([torch.arange(8), torch.arange(14)])[None]])
    ids = torch.cat([ROW, other[None]])
    found = case.model(ids, position_ids=places, use_cache=False).logits
    case.close(found[0], by_hand(case))
    expected = torch.cat([case.by_hand(IDS[3, :8]), case.by_hand(IDS[1, :14])])
    case.close(found[1], expected)


@torch.no_grad()
def test_a_packed_row_goes_on_with_its_last_text(case):
    """By a mask, with the keys in a cache: the next tokens belong to the last text."""
    cache = DynamicCache(config=case.model.config)
    case.model(ROW, block_mask(), PLACES, cache)
    more = IDS[0, 10:13]
    mask = torch.zeros(1, 1, 3, TOKENS + 3, dtype=torch.bool)
    mask[..., -3 - LENGTHS[-1] :] = torch.ones(3, LENGTHS[-1] + 3).tril(LENGTHS[-1]).bool()
    places = torch.arange(LENGTHS[-1], LENGTHS[-1] + 3)[None]
    found = case.model(more[None], mask, places, cache).logits
    case.close(found[0], case.by_hand(torch.cat([TEXTS[-1], more]))[-3:])


@torch.no_grad()
def test_gradients_do_not_cross_the_border(case):
    """What a text is worth does not depend on the one before it, to the last bit."""
    other = ROW.clone()
    other[:, : LENGTHS[0]] = 77
    given = WAYS["positions"]
    first, second = (case.model(ids, **given).logits[0, LENGTHS[0] :] for ids in (ROW, other))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-7)


def causal(tokens, real=None):
    mask = torch.ones(tokens, tokens).tril().bool()[None, None]
    if real is not None:
        mask = mask & torch.tensor(real).bool()[:, None, None]
    return mask


@pytest.mark.parametrize("kind", ["bools", "numbers"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_4d_mask_may_say_what_is_padding(case, side, kind):
    real = [[1] * 16, [0] * 5 + [1] * 11 if side == "left" else [1] * 11 + [0] * 5]
    mask = causal(16, real)
    if kind == "numbers":
        mask = additive(mask)
    place = slice(5, 16) if side == "left" else slice(11)
    ids = IDS[:2].clone()
    ids[1, place] = IDS[1, :11]
    found = case.model(ids, mask).logits
    case.close(found[0], case.by_hand(IDS[0]))
    case.close(found[1, place], case.by_hand(IDS[1, :11]))


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "4-D mask"])
@torch.no_grad()
def test_a_static_cache(case, masked):
    cache, found, at = StaticCache(config=case.model.config, max_cache_len=24), [], 0
    for size in (9, 1, 1, 4, 1):
        mask = torch.arange(24) <= torch.arange(at, at + size)[:, None]
        given = {"attention_mask": mask[None, None]} if masked else {}
        ids = IDS[:, at : at + size]
        found.append(case.model(ids, past_key_values=cache, **given).logits)
        at += size
    case.close(torch.cat(found, 1), case.rows(IDS))


@torch.no_grad()
def test_a_static_cache_is_used_again(case):
    cache = StaticCache(config=case.model.config, max_cache_len=24)
    for ids in (IDS, IDS.flip(0)):
        case.close(case.model(ids, past_key_values=cache).logits, case.rows(ids))
        cache.reset()


def bidirectional(mask):
    return torch.ones_like(mask)


def windowed(mask):
    """The last four tokens alone."""
    return mask & torch.ones_like(mask).triu(-3)


def prefix(mask):
    """The first four tokens see each other."""
    mask = mask.clone()
    mask[..., :4, :4] = True
    return mask


def by_head(mask):
    return torch.cat([mask, windowed(mask)] * 2, dim=1)


def without_a_token(mask):
    mask = mask.clone()
    mask[..., 9:, 3] = False
    return mask


REFUSED = {
    bidirectional: "a token does not see all of its text up to itself",
    windowed: "a token does not see all of its text up to itself",
    prefix: "a token does not see all of its text up to itself",
    without_a_token: "a token does not see all of its text up to itself",
    by_head: "differs from head to head",
    lambda mask: mask[:, 0]: r"of shape \(1, 16, 16\): a mixture reads 2-D and 4-D",
    lambda mask: mask[..., :12]: r"of shape \(1, 1, 16, 12\): cache and call have 16 tokens",
    lambda mask: {"sliding_attention": mask}: "there is none for full attention",
    lambda mask: torch.ones(1, 5): "is for 5 tokens, cache and call have 16",
    lambda mask: object(): r"of shape \(\): a mixture reads 2-D and 4-D",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda f: f.__name__.strip("<>"))
@torch.no_grad()
def test_what_cannot_be_read_is_refused_in_one_line(simple, change):
    with pytest.raises(ConfigError, match=REFUSED[change]) as error:
        simple.model(IDS[:1], change(causal(16)))
    assert "\n" not in str(error.value)
    simple.close(simple.model(IDS).logits, simple.rows(IDS))


@torch.no_grad()
def test_a_mask_that_changes_its_mind_is_refused(simple):
    cache = DynamicCache(config=simple.model.config)
    simple.model(IDS[:1, :6], past_key_values=cache)
    hidden = torch.tensor([[1, 0, 1, 1, 1, 1, 1]])
    with pytest.raises(ConfigError, match="hides or shows other tokens of the cache than before"):
        simple.model(IDS[:1, 6:7], hidden, past_key_values=cache)


@pytest.mark.parametrize("name", ["cache", "cu_seq_lens_q", "block_table"])
@torch.no_grad()
def test_other_ways_to_pack_are_refused(simple, name):
    """Continuous batching and flash attention's own arguments."""
    with pytest.raises(ConfigError, match=f"a mixture does not read {name}="):
        simple.model(IDS[:1], **{name: torch.zeros(2)})


def test_gradient_checkpointing_is_refused(simple):
    model = simple.model
    model.activation_checkpointing_enable()
    model.train()
    try:
        with pytest.raises(ConfigError, match="activation_checkpointing_disable"):
            model(IDS[:1], use_cache=False)
    finally:
        model.activation_checkpointing_disable()
        model.eval()


def test_a_call_without_tokens_is_refused(simple):
    with pytest.raises(ConfigError, match="input_ids or inputs_embeds"):
        simple.model()
