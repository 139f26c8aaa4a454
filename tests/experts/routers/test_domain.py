"""Domain embeddings: what the rows say of a text."""

from dataclasses import replace

import pytest
import torch

from fedmore.experts.routers.base import keep_top, largest
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import THRESHOLD, domain_router

D = 12
NAMES = ("public", "a", "b", "c")


def spec(experts=3, top_k=0, granularity="sequence"):
    return RouterSpec("domain", experts, D, granularity=granularity, prefix_tokens=10, top_k=top_k)


@pytest.fixture(scope="module")
def domains():
    """Call it with a name: embeddings of public text, or of a domain that lies apart from it."""
    g = torch.Generator().manual_seed(1)
    spread = torch.randn(D, D, generator=g) * 0.3 + torch.eye(D)
    offsets = torch.cat([torch.zeros(1, D), torch.randn(3, D, generator=g) * 1.2])

    def draw(name, *size, seed=0):
        noise = torch.randn(*size, D, generator=torch.Generator().manual_seed(seed))
        return noise @ spread + offsets[NAMES.index(name)]

    return draw


@pytest.fixture(scope="module")
def means(domains):
    return [domains(name, 4000).mean(0) for name in NAMES[1:]]


@pytest.fixture(scope="module")
def make(domains, means):
    """Call it with parts of a spec: the router of the three domains."""

    def made(**parts):
        return domain_router(spec(**parts), means, domains("public", 4000, seed=9))

    return made


@pytest.mark.parametrize("granularity", ["sequence", "request"])
@pytest.mark.parametrize("name", NAMES)
def test_a_text_is_told_by_its_tokens(make, domains, weights, name, granularity):
    found = weights(make(granularity=granularity), domains(name, 64, 40, seed=5))[0, :, -1]
    shares = dict(zip(NAMES, found.mean(0).tolist(), strict=True))
    assert shares[name] > 0.9


def test_a_token_alone_says_less_than_the_text(make, domains, weights):
    for index, name in enumerate(NAMES[1:], start=1):
        x = domains(name, 64, 40, seed=5)
        alone = weights(make(granularity="token"), x)[0, :, 1:, index].mean()
        assert 0.8 < alone < weights(make(), x)[0, :, -1, index].mean()


def test_certainty_grows_with_the_text(make, domains, weights):
    share = weights(make(), domains("b", 256, 12, seed=6))[0, ..., 2].mean(0)
    assert share[0] == 1 / 4  # nothing is known yet
    assert share[0] < share[1] < share[2] < share[5] <= share[11]


def test_the_threshold_is_a_part_of_the_way_from_public_text_to_the_domain(make, means, weights):
    """There an expert has what the public one has; beyond, more; before, less."""
    router = make()
    for part, compare in ((0.9, torch.lt), (1.1, torch.gt)):
        for index, mean in enumerate(means):
            token = router.origin_D + part * THRESHOLD * (mean - router.origin_D)
            found = weights(router, torch.stack([token, token])[None])[0, 0, 1]
            assert compare(found[index + 1], found[0])


def test_rows_are_the_linear_discriminant(make, domains, means):
    """Against plain algebra: C r = mu - mu_0, with the shrunken covariance of public text."""
    public = domains("public", 4000, seed=9).double()
    covariance = torch.cov(public.T, correction=0)
    covariance += 0.1 * covariance.trace() / D * torch.eye(D, dtype=torch.float64)
    router = make()
    for row, bias, mean in zip(router.rows_ED, router.bias_E, means, strict=True):
        offset = mean.double() - public.mean(0)
        torch.testing.assert_close(covariance @ row.double(), offset, rtol=1e-4, atol=1e-4)
        assert bias == pytest.approx(THRESHOLD * float(offset @ row.double()), rel=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_the_public_expert_gets_what_top_k_leaves_out(make, domains, weights, k):
    x = domains("c", 5, 7)
    everything = weights(make(), x)
    kept = weights(make(top_k=k), x)
    assert torch.equal(kept, keep_top(everything, k))
    assert not torch.equal(kept, everything)


@pytest.mark.parametrize("count", [1, 3])
def test_few_public_tokens_do(domains, weights, count):
    """Fewer than the width: without shrinkage there would be no inverse."""
    router = domain_router(spec(1), [domains("a", 400).mean(0)], domains("public", count))
    found = weights(router, domains("a", 2, 30))[0]
    assert torch.isfinite(found).all()
    assert (found[:, -1, 1] > 0.9).all()


def test_experts_keep_their_order(domains, means, weights):
    public, x = domains("public", 400), domains("a", 8, 20)
    forward = weights(domain_router(spec(), means, public), x)
    turned = weights(domain_router(spec(), means[::-1], public), x)
    torch.testing.assert_close(forward, turned[..., [0, 3, 2, 1]])
    assert (forward[0, :, -1].argmax(-1) == 1).all()


def test_means_of_less_precision_do(domains, means, weights):
    """The base's dtype: its embeddings come as bfloat16."""
    public, x = domains("public", 400), domains("b", 16, 30)
    router = domain_router(spec(), [mean.bfloat16() for mean in means], public.bfloat16())
    assert (weights(router, x)[0, :, -1].argmax(-1) == 2).all()


@pytest.mark.parametrize("granularity", ["token", "sequence", "request"])
@pytest.mark.parametrize(("kind", "top_k"), [("softmax", 0), ("softmax", 2), ("remix", 2)])
def test_a_router_that_starts_from_it_decides_as_it_does(
    make, domains, weights, granularity, kind, top_k
):
    """Before any training; ReMix takes the arms that have most."""
    known = make(granularity=granularity, top_k=0 if kind == "remix" else top_k)
    started = make_router(replace(known.spec, kind=kind, top_k=top_k, init="domain"))
    started.domain.load_state_dict(known.state_dict())
    x = torch.cat([domains(name, 4, 15, seed=3) for name in NAMES])
    found, shares = weights(started, x), weights(known, x)
    if kind == "remix":
        shares = torch.zeros_like(shares).scatter(-1, largest(shares, 2), 0.5)
    torch.testing.assert_close(found, shares)
