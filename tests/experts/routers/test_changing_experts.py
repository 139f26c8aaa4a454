"""Experts that are withdrawn, and experts that come later, under a router that knows the others."""

import copy
from dataclasses import replace

import pytest
import torch

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.model import assemble
from fedmore.experts.router_training.usage import usage
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec

NAMES = ["legal", "medical", "gl"]
KEPT = [[0, 1], [0, 2], [1, 2], [2, 0], [0], [1]]
IDS = torch.arange(2 * 9).view(2, 9) * 7 % 257


def hidden(rows=6, tokens=9):
    return torch.randn(rows, tokens, 64) * 3


def same_bits(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert one.spec == other.spec
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def proportions(router, before, after, arms):
    """Of arms that work before and after, each to each; `arms[i]` is what arm i was before."""
    before = before[..., arms]
    # What top-k leaves out is the public one's, which therefore keeps no proportion.
    first = 0 if router.spec.top_k == 0 or router.spec.kind == "remix" else 1
    for i in range(first, len(arms)):
        for j in range(first, i):
            both = (before[..., [i, j]] > 0).all(-1) & (after[..., [i, j]] > 0).all(-1)
            left, right = after[..., i] * before[..., j], after[..., j] * before[..., i]
            torch.testing.assert_close(left[both], right[both], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_those_that_stay_keep_their_order_and_proportions(router, weights, kept):
    x, left = hidden(), router.keeping(kept)
    arms = [0, *(i + 1 for i in kept)]
    before, after = weights(router, x), weights(left, x)
    assert left.spec == router.spec.of(len(kept))
    assert after.shape[-1] == len(arms)
    proportions(router, before, after, arms)
    # Whoever worked before works on: one less to stand behind.
    if left.spec.top_k == router.spec.top_k:
        assert (after[..., 1:][before[..., arms[1:]] > 0] > 0).all()
    whole = 1.0 if router.spec.scaling == "lora" else left.spec.top_k**0.5
    torch.testing.assert_close(after.sum(-1), torch.full(after.shape[:-1], whole))


def test_nobody_withdrawn_is_the_same_router(router):
    assert same_bits(router.keeping([0, 1, 2]), router)
    assert router.keeping([0, 1, 2]).training == router.training


def test_another_order_is_the_same_router_in_that_order(router, weights):
    x = hidden()
    turned = router.keeping([2, 0, 1])
    found, expected = weights(turned, x), weights(router, x)[..., [0, 3, 1, 2]]
    # At the start token, where nothing is known, the first of those that are alike works.
    torch.testing.assert_close(found[:, :, 1:], expected[:, :, 1:])
    assert same_bits(turned.keeping([1, 2, 0]), router)


def test_a_changed_copy_leaves_the_router_as_it_is(router):
    before = copy.deepcopy(router.state_dict())
    for other in (router.keeping([0, 1]), router.with_new()):
        for tensor in other.state_dict().values():
            tensor.zero_()
    for name, tensor in router.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_withdrawing_never_breaks_the_mixture(base, experts, router, logits):
    before = logits(base.model, IDS)
    for kept in KEPT[2:5]:
        left = {NAMES[i]: experts[NAMES[i]] for i in kept}
        mixture = assemble(base.model, left, router.keeping(kept))
        found = logits(mixture.model, IDS)
        assert torch.isfinite(found).all()
        assert torch.equal(found, before) == (usage(mixture, IDS)[:, 1:].sum() == 0)


def test_decisions_of_blocks_that_nobody_changes_any_more_are_refused_in_words(
    base, experts, router, logits
):
    """`keeping` knows no blocks: who withdraws the last expert of one drops its decision too."""
    left, alone = {"gl": experts["gl"]}, router.keeping([2])
    if router.shared:
        assert torch.isfinite(logits(assemble(base.model, left, alone).model, IDS)).all()
        return
    with pytest.raises(ConfigError, match="1 experts and 6 decisions, the mixture has 1 and 3"):
        assemble(base.model, left, alone)


def test_withdrawing_all_leaves_the_base(base, router, logits, weights):
    """A router that decides in every layer has nowhere left to decide; its weights are those."""
    none = router.keeping([])
    found = weights(none, hidden())
    torch.testing.assert_close(found, torch.ones_like(found))
    assert found.shape[-1] == 1
    if router.shared:
        model = assemble(base.model, {}, none).model
        assert torch.equal(logits(model, IDS), logits(base.model, IDS))


def test_one_by_one_is_all_at_once(router):
    assert same_bits(router.keeping([0, 2]).keeping([1]), router.keeping([2]))


@pytest.mark.parametrize("count", [1, 2])
def test_a_new_one_starts_as_the_public_expert(router, weights, count):
    x, more = hidden(), router.with_new(count)
    assert more.spec == replace(router.spec, experts=3 + count)
    before, after = weights(router, x), weights(more, x)
    proportions(router, before, after, [0, 1, 2, 3])
    rounding = 0 if router.spec.kind == "remix" else 1e-6
    assert (after[..., 4:] <= after[..., :1] + rounding).all()  # as yet never better
    if router.spec.kind == "remix":
        state = more.state_dict()
        for name in more.arm_axes.keys() & state.keys():
            public, *_, new = state[name].unbind(more.arm_axes[name])
            torch.testing.assert_close(new, public, rtol=0, atol=2e-3)
        return
    everything = copy.deepcopy(more)
    everything.spec = replace(more.spec, top_k=0)
    shares = weights(everything, x)
    # Arrow knows no direction of it.
    like = torch.zeros_like(shares[..., :1]) if router.spec.kind == "arrow" else shares[..., :1]
    torch.testing.assert_close(shares[..., 4:], like.expand_as(shares[..., 4:]), rtol=2e-3, atol=0)


def test_new_ones_that_leave_again_leave_no_trace(router):
    assert same_bits(router.with_new(2).keeping([0, 1, 2]), router)
    assert same_bits(router.with_new().with_new(), router.with_new(2))
    assert router.with_new().training == router.training


def test_a_new_one_runs_in_the_mixture(base, experts, router, changes, logits):
    more = {**experts, "new": changes(ExpertSpec("new", "expert", "new", 3))}
    mixture = assemble(base.model, more, router.with_new())
    assert torch.isfinite(logits(mixture.model, IDS)).all()
    assert usage(mixture, IDS).shape == (IDS.numel(), 5)
    with pytest.raises(ConfigError, match="for 3 experts"):
        assemble(base.model, more, router)


@pytest.mark.parametrize(("left", "top_k"), [(3, 3), (2, 3), (1, 2), (0, 1)])
def test_remix_chooses_at_most_as_many_as_there_are(weights, left, top_k):
    router = make_router(RouterSpec("remix", 3, 64, top_k=3))
    torch.nn.init.normal_(router.rows_LAD)
    fewer = router.keeping(list(range(left)))
    found = weights(fewer, hidden())
    assert fewer.spec.top_k == top_k
    assert ((found > 0).sum(-1) == top_k).all()
    torch.testing.assert_close(found.amax(-1), torch.full(found.shape[:-1], 1 / top_k))
    assert fewer.with_new(3 - left).spec.top_k == top_k  # and not more when there are more again
