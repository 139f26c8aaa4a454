"""The step from round to round against the weighted sum of products in float64."""

import itertools

import pytest
import torch
from assertions import product, same
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from fedmore.experts.factors import ranks
from fedmore.experts.spec import TargetModule
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import Component, fresh, without
from fedmore.strategies.expert_stage.step import advance

SITES = (
    TargetModule("model.layers.0.mlp.up_proj", 14, 9),
    TargetModule("model.layers.0.mlp.down_proj", 9, 14),
)
ALL = 512


def factors(rank, seed, size=1.0):
    g = torch.Generator().manual_seed(seed)
    return {
        s.path: (
            torch.randn(s.out_features, rank, generator=g) * size,
            torch.randn(rank, s.in_features, generator=g) * size,
        )
        for s in SITES
    }


def moved(old, seed, size=0.1):
    step = factors(next(iter(ranks(old).values())), seed, size)
    return {p: (b + step[p][0], a + step[p][1]) for p, (b, a) in old.items()}


def nothing(after):
    """What factors of this shape begin as: a change of nothing."""
    return {path: (torch.zeros_like(b), a.clone()) for path, (b, a) in after.items()}


def contribution(name, rank, weight, seed, scale=2.0):
    after = factors(rank, seed)
    return Change(name, nothing(after), after, weight, scale)


def exact(items, path):
    """FedAvg of the products that changed."""
    total = sum(c.size for c in items)
    return sum(
        c.size / total * c.scale * (product(c.after, path) - product(c.before, path)) for c in items
    )


def assert_is(state, path, wanted, rtol=2e-6):
    found = product(state.aggregate, path)
    assert float((found - wanted).norm()) <= rtol * float(wanted.norm()) + 1e-12


@settings(deadline=None, max_examples=examples(12))
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 10_000))
def test_equals_the_weighted_sum_for_mixed_ranks(client_ranks, seed):
    items = [
        contribution(str(k), rank, 100 * (k + 1), seed + k, scale=0.5 + k)
        for k, rank in enumerate(client_ranks)
    ]
    state, error = advance(fresh("legal", "expert", SITES), items, ALL)
    for site in SITES:
        assert_is(state, site.path, exact(items, site.path))
    assert error < 3e-7
    assert {t.dtype for pair in state.aggregate.values() for t in pair} == {torch.float32}
    again = Change("0", items[0].after, moved(items[0].after, 7), 30, 0.5)
    later, _ = advance(state, [again], ALL)
    for site in SITES:
        assert_is(later, site.path, exact(items, site.path) + exact([again], site.path))


def test_averaging_the_factors_is_told_apart():
    """What advance must not do gives something far from the exact sum."""
    items = [contribution("a", 3, 0.5, 1), contribution("b", 3, 0.5, 2)]
    path = SITES[0].path
    b, a = (sum(c.size * c.after[path][i] for c in items) for i in (0, 1))
    wrong = 2.0 * b.double() @ a.double()
    right = exact(items, path)
    assert float((wrong - right).norm() / right.norm()) > 0.3


def test_the_order_of_contributions_does_not_matter():
    items = [contribution(str(k), k + 1, 0.25, k) for k in range(4)]
    expected, _ = advance(fresh("legal", "expert", SITES), items, ALL)
    for turned in itertools.permutations(items):
        state, _ = advance(fresh("legal", "expert", SITES), turned, ALL)
        assert same(state.aggregate, expected.aggregate)


def run(rounds, client_ranks, weights, max_rank=ALL, size=0.05):
    """Rounds in which every client moves; the state, the clients' factors, ranks and errors."""
    state = fresh("legal", "expert", SITES)
    now = {str(k): factors(r, k, 0.3) for k, r in enumerate(client_ranks)}
    seen, errors = [], []
    for number in range(rounds):
        before = now if number else {n: nothing(f) for n, f in now.items()}
        now = {n: moved(f, 1000 * number + int(n), size) for n, f in now.items()}
        items = [Change(n, before[n], f, weights[int(n)], 2.0) for n, f in now.items()]
        state, error = advance(state, items, max_rank)
        seen.append(state.rank)
        errors.append(error)
    return state, now, seen, errors


def test_round_after_round_it_is_the_weighted_sum_of_the_components():
    weights = (0.2, 0.3, 0.5)
    state, now, seen, errors = run(30, (1, 2, 4), weights)
    for site in SITES:
        wanted = sum(w * 2.0 * product(now[str(k)], site.path) for k, w in enumerate(weights))
        assert_is(state, site.path, wanted)
    assert max(seen) <= 7  # rounding does not add to the rank
    assert max(errors) < 3e-7
    assert {name: part.updates for name, part in state.components.items()} == dict.fromkeys(
        "012", 30
    )


def test_a_rank_above_the_matrix_is_cut_to_it_without_error():
    _, _, seen, errors = run(3, (8, 8), (0.5, 0.5))
    assert seen == [9, 9, 9]
    assert max(errors) < 3e-7


def test_max_rank_truncates_and_says_how_much():
    _, _, seen, errors = run(4, (3, 4), (0.5, 0.5), max_rank=2)
    assert seen == [2, 2, 2, 2]
    assert all(0.05 < error < 1 for error in errors)
    items = [contribution("a", 5, 1.0, 3)]
    cut, error = advance(fresh("legal", "expert", SITES), items, 2)
    wrong = sum(
        float((product(cut.aggregate, s.path) - exact(items, s.path)).norm()) ** 2 for s in SITES
    )
    whole = sum(float(exact(items, s.path).norm()) ** 2 for s in SITES)
    assert error == pytest.approx((wrong / whole) ** 0.5, rel=1e-5)


def test_components_of_nothing_give_nothing():
    zero = {p: (b * 0, a) for p, (b, a) in factors(3, 1).items()}
    state, error = advance(
        fresh("legal", "expert", SITES), [Change("a", zero, zero, 1.0, 2.0)], ALL
    )
    assert (state.rank, error) == (0, 0.0)


def test_who_was_away_stays_as_it_was_and_counts_on():
    state, now, _, _ = run(2, (2, 3), (0.5, 0.5))
    after = moved(now["1"], 5)
    later, _ = advance(state, [Change("1", now["1"], after, 0.5, 2.0)], ALL)
    assert later.components["0"] is state.components["0"]
    assert later.components["1"].updates == 3
    for site in SITES:
        # Alone it has all of the weight, of what it changed in this round and of nothing else.
        change = 2 * (product(after, site.path) - product(now["1"], site.path))
        before = product(now["0"], site.path) + product(now["1"], site.path)
        assert_is(later, site.path, before + change)


def test_who_is_left_out_leaves_no_trace():
    state, now, _, _ = run(3, (2, 3, 1), (0.5, 0.3, 0.2))
    left, error = without(state, {"1"}, ALL)
    for site in SITES:
        assert_is(
            left, site.path, product(now["0"], site.path) + 0.4 * product(now["2"], site.path)
        )
    assert {name: part.weight for name, part in left.components.items()} == {
        name: state.components[name].weight for name in "02"
    }
    assert error < 3e-7
    assert set(left.components) == {"0", "2"}
    nobody, error = without(left, {"0", "2"}, ALL)
    assert (nobody.rank, nobody.components, error) == (0, {}, 0.0)
    assert {path: (b.shape[0], a.shape[1]) for path, (b, a) in nobody.aggregate.items()} == {
        s.path: (s.out_features, s.in_features) for s in SITES
    }


def test_the_old_state_is_not_changed():
    state, now, _, _ = run(1, (2,), (1.0,))
    before = {p: (b.clone(), a.clone()) for p, (b, a) in state.aggregate.items()}
    advance(state, [Change("0", now["0"], moved(now["0"], 3), 1.0, 2.0)], ALL)
    without(state, {"0"}, ALL)
    for path, (b, a) in state.aggregate.items():
        assert torch.equal(b, before[path][0])
        assert torch.equal(a, before[path][1])
    assert state.components["0"].updates == 1


def test_dump_and_restore():
    first, _, _, _ = run(2, (2, 3), (0.5, 0.25))
    odd = fresh("a/b", "adapter", SITES)
    odd, _ = advance(odd, [contribution("names with spaces, ü", 1, 1.0, 4)], ALL)
    states = {"legal": first, "a/b": odd, "new": fresh("new", "expert", SITES)}
    back = restore(dump(states))
    assert dump(back) == dump(states)
    assert list(back) == list(states)
    for name, state in states.items():
        assert (back[name].name, back[name].kind) == (name, state.kind)
        assert same(back[name].aggregate, state.aggregate)
        assert list(back[name].components) == list(state.components)
        for client, part in state.components.items():
            again = back[name].components[client]
            assert (again.updates, again.weight, again.scale) == (
                part.updates,
                part.weight,
                part.scale,
            )
            assert same(again.factors, part.factors)


def test_names_of_which_one_begins_like_another():
    a, _ = advance(fresh("a", "expert", SITES), [contribution("x", 1, 1.0, 1)], ALL)
    ab, _ = advance(fresh("ab", "expert", SITES), [contribution("xy", 2, 1.0, 2)], ALL)
    ab = type(ab)(ab.name, ab.kind, ab.aggregate, {**ab.components, "x": Component(factors(1, 5))})
    back = restore(dump({"a": a, "ab": ab}))
    assert same(back["a"].aggregate, a.aggregate)
    assert set(back["ab"].components) == {"xy", "x"}
    assert same(back["ab"].components["x"].factors, factors(1, 5))


def test_going_on_from_a_dump_is_going_on():
    state, now, _, _ = run(3, (2, 3), (0.5, 0.5))
    items = [Change(n, f, moved(f, 9), 0.5, 2.0) for n, f in now.items()]
    straight, error = advance(state, items, ALL)
    resumed, error_ = advance(restore(dump({"legal": state}))["legal"], items, ALL)
    assert same(straight.aggregate, resumed.aggregate)
    assert error == error_


def test_the_result_does_not_depend_on_threads():
    state, contributions = many_threads_case()
    digests = set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            after, error = advance(state, contributions, 512)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        digests.add((dump({"legal": after}), error))
    assert len(digests) == 1


def many_threads_case():
    """Large enough that LAPACK would use both threads."""
    site = TargetModule("model.layers.0.mlp.up_proj", 700, 500)
    generator = torch.Generator().manual_seed(5)

    def factors(rank):
        b = torch.randn(site.out_features, rank, generator=generator)
        return {site.path: (b, torch.randn(rank, site.in_features, generator=generator))}

    made = {f"c{rank}": factors(rank) for rank in (80, 160)}
    items = [Change(name, nothing(after), after, 0.5, 2.0) for name, after in made.items()]
    return fresh("legal", "expert", [site]), items
