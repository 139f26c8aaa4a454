"""What every router promises of its weights, on made-up hidden states."""

import pytest
import torch

from fedmore.experts.routers.base import keep_top
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import ArrowRouter, UniformRouter

T = 9


def hidden(rows=4, tokens=T):
    return torch.randn(rows, tokens, 64) * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_shares(router, weights, dtype):
    found = weights(router, hidden().to(dtype))
    spec = router.spec
    assert found.shape == (spec.layers, 4, T, spec.arms)
    assert found.dtype == dtype
    assert (found >= 0).all()
    whole = spec.top_k**0.5 if spec.scaling == "rank_stabilised" else 1.0
    exact = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(
        found.float().sum(-1), torch.full(found.shape[:-1], whole), rtol=exact, atol=0
    )


def test_extreme_states_give_shares_too(router, weights):
    """What is left for the public expert is never a little less than nothing."""
    for size in (0.0, 1e-4, 1e4):
        found = weights(router, hidden(64) * size)
        assert torch.isfinite(found).all()
        assert (found >= 0).all()


def test_at_most_top_k_experts_work(router, weights):
    spec = router.spec
    active = (weights(router, hidden())[..., 1:] > 0).sum(-1)
    assert (active <= (spec.top_k or spec.experts)).all()
    assert active.any()


def test_the_states_are_not_changed(router, weights):
    x = hidden()
    before = x.clone()
    weights(router, x)
    assert torch.equal(x, before)


def test_weights_are_causal(router, weights):
    x = hidden()
    found = weights(router, x)
    for cut in (1, 5):
        later = x.clone()
        later[:, cut:] = 100
        assert torch.equal(weights(router, later)[:, :, :cut], found[:, :, :cut])


def test_a_sequence_does_not_see_its_batch(router, weights):
    x = hidden()
    together = weights(router, x)
    for row in range(4):
        torch.testing.assert_close(weights(router, x[row : row + 1])[:, 0], together[:, row])


@pytest.mark.parametrize("chunks", [[1] * T, [1, 6, 2]], ids=str)
def test_pieces_give_what_the_whole_gives(router, weights, chunks):
    x = hidden()
    torch.testing.assert_close(weights(router, x, chunks=chunks), weights(router, x))


@pytest.mark.parametrize("chunks", [[T], [5, 1, 3]], ids=str)
def test_padding_is_no_evidence(router, weights, chunks):
    """On either side, and in pieces: the real tokens have the weights that they have alone."""
    x = hidden()
    for real, left in ((6, True), (6, False), (1, True), (T, True)):
        mask = torch.zeros(4, T, dtype=torch.long)
        mask[1:] = 1
        place = slice(T - real, T) if left else slice(real)
        mask[0, place] = 1
        found = weights(router, x, mask, chunks)
        alone = weights(router, x[:1, place])
        torch.testing.assert_close(found[:, 0, place], alone[:, 0])
        torch.testing.assert_close(found[:, 1:], weights(router, x[1:]))


EVIDENCED = ("domain", "softmax", "xlora", "remix")


def test_the_start_token_is_no_evidence(router, weights):
    """Before there is evidence every text is treated alike. Arrow sees the token, no text."""
    x = hidden()
    first = x.clone()
    first[:, 0] = 50 * torch.randn(64)
    found, changed = weights(router, x), weights(router, first)
    assert torch.equal(found[:, :, 1:], changed[:, :, 1:])
    if router.spec.kind != "arrow":
        assert torch.equal(found[:, :, 0], changed[:, :, 0])
        assert torch.equal(found[:, :1, 0], found[:, 1:2, 0])


def test_what_a_level_is_decided_from(router, weights):
    """A change of one token is seen at that token alone, from there on, or in the prefix only."""
    spec = router.spec
    if spec.kind not in EVIDENCED:
        assert spec.kind in ("uniform", "arrow")
        return
    x = hidden(64, 12)
    found = weights(router, x)
    at = {
        place: changed_at(router, weights, x, found, place) for place in (2, spec.prefix_tokens + 1)
    }
    frozen = found[:, :, spec.prefix_tokens :]
    assert torch.equal(frozen[:, :, :1].expand_as(frozen), frozen) == (
        spec.granularity == "request"
    )
    if spec.granularity == "token":
        assert at == {2: {2}, spec.prefix_tokens + 1: {spec.prefix_tokens + 1}}
    elif spec.granularity == "request":
        assert at == {2: set(range(2, 12)), spec.prefix_tokens + 1: set()}
    else:
        assert at == {
            2: set(range(2, 12)),
            spec.prefix_tokens + 1: set(range(spec.prefix_tokens + 1, 12)),
        }


def changed_at(router, weights, x, found, place):
    """The tokens whose weights differ, in any of the sequences, when one token is another."""
    other = x.clone()
    other[:, place] = torch.randn(len(x), 64) * 3
    differs = (weights(router, other) != found).any(-1).any(0).any(0)
    return set(differs.nonzero().flatten().tolist())


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_public_expert_gets_what_top_k_leaves_out(k):
    everything = torch.softmax(torch.randn(5, 7, 4), -1)
    kept = keep_top(everything, k)
    assert ((kept[..., 1:] > 0).sum(-1) == k).all()
    chosen = kept[..., 1:] > 0
    assert torch.equal(kept[..., 1:][chosen], everything[..., 1:][chosen])  # not renormalised
    least = torch.where(chosen, kept[..., 1:], torch.inf).amin(-1)
    assert (torch.where(chosen, 0, everything[..., 1:]).amax(-1) <= least).all()
    torch.testing.assert_close(kept.sum(-1), torch.ones(5, 7))


def test_uniform():
    router = UniformRouter(RouterSpec("uniform", 3, 12))
    assert router(torch.zeros(2, 5, 12), 0, None).tolist() == [[[0.25] * 4] * 5] * 2


def test_arrow_keeps_top_k_of_equals():
    """Two experts that are the same: one of them works, not both."""
    router = ArrowRouter(RouterSpec("arrow", 3, 4, top_k=1))
    router.prototypes_LED[0] = torch.eye(4)[:3] + torch.eye(4)[1]
    router.prototypes_LED[0, 2] = router.prototypes_LED[0, 0]
    router.present_LE.fill_(True)
    found = router(torch.tensor([[[9.0, 1, 0, 0]]]), 0, None)
    assert sorted(found[0, 0].tolist()) == [0, 0, 0, 1]
