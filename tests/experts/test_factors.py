import pytest
import torch

from fedmore.experts import factors as low_rank
from fedmore.experts.spec import ExpertSpec


@pytest.fixture
def spec():
    return ExpertSpec("legal/a", "expert", "legal", 3)


@pytest.fixture
def sites(spec, shapes):
    return spec.sites(shapes)


def equal(left, right):
    return list(left) == list(right) and all(
        torch.equal(left[p][0], right[p][0]) and torch.equal(left[p][1], right[p][1]) for p in left
    )


def test_initial_is_no_change_and_the_same_everywhere(spec, sites):
    first = low_rank.initial(spec, sites, seed=3)
    state = torch.random.get_rng_state()
    assert equal(first, low_rank.initial(spec, sites, seed=3))
    assert torch.equal(torch.random.get_rng_state(), state)
    for site in sites:
        b, a = first[site.path]
        assert (b.shape, a.shape) == ((site.out_features, 3), (3, site.in_features))
        assert not b.any()
        assert a.abs().max() <= site.in_features**-0.5
        assert a.std() == pytest.approx((site.in_features * 3) ** -0.5, rel=0.25)


@pytest.mark.parametrize(
    "other",
    [("legal/b", 3, 0), ("legal/a", 3, 1)],
    ids=["name", "seed"],
)
def test_initial_differs_between_clients_and_seeds(spec, sites, other):
    name, rank, seed = other
    mine = low_rank.initial(spec, sites, 0)
    theirs = low_rank.initial(ExpertSpec(name, "expert", "legal", rank), sites, seed)
    path = sites[0].path
    assert not torch.equal(mine[path][1], theirs[path][1])


def test_initial_is_this():
    """Coordinator and client draw it apart; a change here breaks every stored federation."""
    spec = ExpertSpec("legal/a", "expert", "legal", 1)
    found = low_rank.initial(spec, spec.sites({"layers.0.mlp.up_proj": (2, 4)}), 0)
    (_, a) = found["layers.0.mlp.up_proj"]
    expected = torch.tensor([-0.05882943, 0.17687368, -0.20372260, -0.40589994])
    torch.testing.assert_close(a.flatten(), expected, rtol=0, atol=1e-7)


def test_wire_order_and_back(changes, spec, sites):
    factors = changes(spec)
    flat = low_rank.tensors(factors, sites)
    assert [tuple(t.shape) for t in flat] == low_rank.shapes(sites, low_rank.ranks(factors))
    assert torch.equal(flat[0], factors[sites[0].path][1])
    assert torch.equal(flat[1], factors[sites[0].path][0])
    assert equal(low_rank.from_tensors(flat, sites), factors)
    with pytest.raises(ValueError, match="too few"):
        low_rank.from_tensors(flat[:-2], sites)


def test_state_and_back(changes, spec):
    factors = changes(spec)
    transposed = {p: (b.T.contiguous().T, a) for p, (b, a) in factors.items()}
    state = low_rank.to_state(transposed)
    assert all(t.is_contiguous() and t.dtype == torch.float32 for t in state.values())
    assert equal(low_rank.from_state(state), factors)


def test_difference_and_total(changes, spec):
    old, new = changes(spec), changes(spec)
    back = low_rank.total(old, low_rank.difference(new, old))
    for path in new:
        torch.testing.assert_close(back[path], new[path])


def test_empty_is_rank_0(sites):
    nothing = low_rank.empty(sites)
    assert set(low_rank.ranks(nothing).values()) == {0}
    assert low_rank.num_parameters(nothing) == 0
    assert equal(low_rank.from_state(low_rank.to_state(nothing)), nothing)


def test_numbers(changes, spec, sites):
    assert low_rank.num_parameters(changes(spec)) == sum(
        3 * (s.out_features + s.in_features) for s in sites
    )
