import pytest
import torch

from fedmore.experts.router import (
    THRESHOLD,
    DomainRouter,
    UniformRouter,
    domain_router,
    keep_top,
)

D = 12


@pytest.fixture
def domains():
    """Public embeddings and three domains that lie apart from them, by name."""
    g = torch.Generator().manual_seed(1)
    spread = torch.randn(D, D, generator=g) * 0.3 + torch.eye(D)
    offsets = torch.randn(3, D, generator=g) * 1.2

    def draw(name, count, seed=0):
        noise = torch.randn(count, D, generator=torch.Generator().manual_seed(seed)) @ spread
        return noise if name == "public" else noise + offsets[["a", "b", "c"].index(name)]

    return draw


@pytest.fixture
def router(domains):
    means = {name: domains(name, 4000).mean(0) for name in "abc"}
    return domain_router(means, domains("public", 4000, 9), top_k=4)


def routers():
    torch.manual_seed(3)
    rows, bias, origin = torch.randn(3, D), torch.randn(3), torch.randn(D)
    made = [DomainRouter(rows, bias, origin, k) for k in (1, 2, 3, 4, 9)]
    return [*made, UniformRouter(3), UniformRouter(1)]


@pytest.mark.parametrize("router", routers(), ids=lambda r: f"{r.kind}-{getattr(r, 'top_k', '')}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_contract_weights_are_shares_and_causal(router, dtype):
    x = (torch.randn(4, 9, D) * 3).to(dtype)
    weights = router(x)
    assert weights.shape[:2] == (4, 9)
    assert weights.dtype == dtype
    assert (weights >= 0).all()
    assert (weights.float().sum(-1) <= 1 + 1e-2 * (dtype == torch.bfloat16) + 1e-6).all()
    for cut in (1, 5):
        later = x.clone()
        later[:, cut:] = 100
        assert torch.equal(router(later)[:, :cut], weights[:, :cut])
    torch.testing.assert_close(router(x[1:2]), weights[1:2])


def test_the_embeddings_are_not_changed(router):
    x = torch.randn(2, 3, D)
    before = x.clone()
    router(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_public_expert_gets_what_top_k_leaves_out(k):
    rows, bias, origin = torch.randn(3, D), torch.randn(3), torch.zeros(D)
    x = torch.randn(5, 7, D)
    everything = DomainRouter(rows, bias, origin, 4)(x)
    kept = DomainRouter(rows, bias, origin, k)(x)
    torch.testing.assert_close(kept, keep_top(everything, k))
    assert ((kept > 0).sum(-1) <= k).all()
    assert torch.equal(kept[kept > 0], everything[kept > 0])  # not renormalised


def test_the_start_token_is_no_evidence(router, domains):
    x = domains("a", 6)[None]
    first = x.clone()
    first[:, 0] = 50
    assert torch.equal(router(first), router(x))
    # Before there is evidence every text is treated alike.
    assert torch.equal(router(domains("b", 6)[None])[:, 0], router(x)[:, 0])


@pytest.mark.parametrize("name", ["public", "a", "b", "c"])
def test_a_text_is_told_by_its_tokens(router, domains, name):
    x = domains(name, 64 * 40, seed=5).view(64, 40, D)
    weights = router(x)[:, -1]
    shares = {"public": float((1 - weights.sum(-1)).mean())}
    shares |= dict(zip("abc", weights.mean(0).tolist(), strict=True))
    assert shares[name] > 0.9


def test_certainty_grows_with_the_text(router, domains):
    x = domains("b", 256 * 12, seed=6).view(256, 12, D)
    share = router(x)[..., 1].mean(0)
    assert share[0] < share[1] < share[2] <= share[11]


def test_the_threshold_is_a_part_of_the_way_from_public_text_to_the_domain(router, domains):
    mean = domains("a", 4000).mean(0)
    reach = (mean - router.origin_D) @ router.rows_ED[0]
    assert router.bias_E[0] == pytest.approx(THRESHOLD * float(reach), rel=1e-4)


def test_few_public_tokens_do(domains):
    router = domain_router({"a": domains("a", 400).mean(0)}, domains("public", 3), top_k=2)
    assert all(torch.isfinite(buffer).all() for buffer in router.buffers())


def test_one_public_token_does(domains):
    router = domain_router({"a": domains("a", 400).mean(0)}, domains("public", 1), top_k=2)
    assert torch.isfinite(router(torch.randn(1, 5, D))).all()


def test_experts_keep_their_order(domains):
    means = {name: domains(name, 400).mean(0) for name in "abc"}
    forward = domain_router(means, domains("public", 400), 4)
    turned = domain_router(dict(reversed(means.items())), domains("public", 400), 4)
    x = domains("a", 20)[None]
    torch.testing.assert_close(forward(x), turned(x).flip(-1))


def test_uniform():
    assert UniformRouter(3)(torch.zeros(2, 5, D)).tolist() == [[[0.25] * 3] * 5] * 2
