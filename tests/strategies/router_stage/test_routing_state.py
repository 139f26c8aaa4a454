"""The router that clients train, as the coordinator keeps it: sums of parts, exactly left out."""

import pytest
import torch
from assertions import same_state
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from fedmore.experts.mixture.model import routed_blocks
from fedmore.experts.mixture.routing.state import RoutingState
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.strategies.router_stage.state import dump, fresh, restore

WIDTH = 12
BLOCKS = {"legal": (0, 1, 2), "medical": (1,), "gl": (0, 2)}
CASES = ["softmax-shared", "softmax-layers", "softmax-domain", "xlora-layers", "remix-shared",
         "remix-layers", "remix-domain"]  # fmt: skip


def factors(blocks):
    return {f"model.layers.{i}.mlp.up_proj": (torch.zeros(2, 1), torch.zeros(1, 2)) for i in blocks}


EXPERTS = {name: factors(blocks) for name, blocks in BLOCKS.items()}


def untrained(name, experts=3):
    """Its numbers are all different, parameters and buffers, so that each can be followed."""
    kind, place = name.split("-")
    layers, start = 3 if place == "layers" else 1, "domain" if place == "domain" else "zero"
    spec = RouterSpec(kind, experts, WIDTH, layers, hidden=4, top_k=2, init=start)
    router = make_router(spec)
    count = sum(t.numel() for t in router.state_dict().values())
    flat = torch.randperm(count, generator=torch.Generator().manual_seed(0)).float()
    parts = flat.split([t.numel() for t in router.state_dict().values()])
    state = router.state_dict()
    router.load_state_dict(
        {n: part.view(state[n].shape) for n, part in zip(state, parts, strict=True)}
    )
    return router


@pytest.fixture(params=CASES)
def state(request):
    return fresh(EXPERTS, untrained(request.param))


def change(state, seed):
    g = torch.Generator().manual_seed(seed)
    named = state.initial.named_parameters()
    return {name: torch.randn(p.shape, generator=g) for name, p in named}


def round_of(state, number, clients):
    """Changes of one round, drawn by client and round."""
    return {c: change(state, 100 * number + ord(c)) for c in clients}


def numbers(router):
    return {name: p.detach().double() for name, p in router.named_parameters()}


def assert_close(found, wanted):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)  # float32 below 1000


def test_a_router_that_nobody_has_trained_is_the_initial_one(state):
    found, wanted = state.router().state_dict(), state.initial.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert state.updates("a") == 0


def test_every_round_adds_the_mean_of_its_changes(state):
    rounds = [round_of(state, number, "abc") for number in (1, 2)]
    expected = numbers(state.initial)
    for changes in rounds:
        state = state.advanced(changes)
        for part in changes.values():
            for name, tensor in part.items():
                expected[name] = expected[name] + tensor.double() / len(changes)
        assert_close(numbers(state.router()), expected)
    assert {name: part.updates for name, part in state.parts.items()} == dict.fromkeys("abc", 2)


def test_what_is_no_parameter_never_moves(state):
    moved = state.advanced(round_of(state, 1, "ab")).router().state_dict()
    for name in moved.keys() - numbers(state.initial).keys():
        assert torch.equal(moved[name], state.initial.state_dict()[name])


def test_who_misses_a_round_keeps_its_part(state):
    first, second = round_of(state, 1, "ab"), {"b": change(state, 9)}
    expected = numbers(state.initial)
    for name in expected:
        own, other = first["a"][name].double(), first["b"][name].double()
        expected[name] += (own + other + second["b"][name]) / 2
    found = state.advanced(first).advanced(second)
    assert_close(numbers(found.router()), expected)
    assert (found.updates("a"), found.updates("b")) == (1, 2)


def test_advancing_leaves_the_state_before_as_it_was(state):
    before = dump(state)
    state.advanced(round_of(state, 1, "ab")).router()
    assert dump(state) == before


@settings(deadline=None, max_examples=examples(12))
@given(
    st.sampled_from(CASES),
    st.lists(st.permutations("abcde").map(lambda p: p[:4]), min_size=1, max_size=3),
    st.sets(st.sampled_from("abcdez")),
    st.randoms(use_true_random=False),
)
def test_neither_the_order_nor_who_was_there_before_matters(name, rounds, gone, random):
    """Shuffled clients give the same bytes; one left out is as if it had never sent anything."""
    start = fresh(EXPERTS, untrained(name))
    straight = shuffled = never = start
    for number, clients in enumerate(rounds):
        straight = straight.advanced(round_of(start, number, clients))
        never = never.advanced(round_of(start, number, [c for c in clients if c not in gone]))
        random.shuffle(clients)
        shuffled = shuffled.advanced(round_of(start, number, clients))
    assert dump(shuffled) == dump(straight)
    assert same_state(shuffled.router(), straight.router())
    assert dump(straight.without(gone)) == dump(never)
    assert same_state(straight.without(gone).router(), never.router())


def test_the_sum_is_in_order_of_names_whatever_the_rounds_were():
    """Seen where float64 rounds, too: the small number between two large ones is lost."""
    sizes = {"a": 2.0**60, "b": 1.0, "c": -(2.0**60)}

    def router(order):
        state = fresh(EXPERTS, make_router(RouterSpec("softmax", 3, WIDTH)))
        for client in order:
            change = {n: t.detach() + sizes[client] for n, t in state.initial.named_parameters()}
            state = state.advanced({client: change})
        return state.router()

    assert same_state(router("acb"), router("abc"))
    assert same_state(router("cba"), router("abc"))


def test_without_everybody_it_is_the_initial_router(state):
    trained = state.advanced(round_of(state, 1, "ab"))
    assert same_state(trained.without({"a", "b", "nobody"}).router(), state.initial)


def test_of_the_same_experts_it_stays_as_it_is(state):
    assert state.of(EXPERTS) is state


KEPT = [("legal", "medical"), ("gl", "legal"), ("gl",), ("medical", "gl"), ("gl", "medical")]


def kept(before, name, tensor, experts, blocks):
    """What is left of a tensor whose name says what its axes are: arms, experts or layers."""
    chosen = [list(EXPERTS).index(expert) for expert in experts]
    entries = {"A": [0, *(1 + i for i in chosen)], "E": chosen}
    if before.spec.layers > 1:
        once = before.two_pass and name.startswith("features.")  # all decisions look at the first
        entries["L"] = [0] * len(blocks) if once else list(blocks)
    for axis, letter in enumerate(name.rpartition("_")[2] if "_" in name else ""):
        if letter in entries:
            tensor = tensor.index_select(axis, torch.tensor(entries[letter]))
    return tensor


@pytest.mark.parametrize("names", KEPT)
def test_of_fewer_experts_their_rows_and_decisions_are_kept(state, names):
    trained = state.advanced(round_of(state, 1, "ab"))
    left = {name: EXPERTS[name] for name in names}
    found, before = trained.of(left), trained.router()
    assert (found.experts, found.blocks) == (names, routed_blocks(left))
    after = found.router().state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(after[name], kept(before, name, tensor, names, found.blocks)), name
    RoutingState(found.router(), found.blocks).check(len(names))


def test_of_fewer_experts_clients_train_on_and_can_still_be_left_out(state):
    """In whatever order the two happen."""
    trained = state.advanced(round_of(state, 1, "ab"))
    left = {name: EXPERTS[name] for name in ("gl", "legal")}
    once, other = trained.of(left).without({"b"}), trained.without({"b"}).of(left)
    assert dump(once) == dump(other)
    later = trained.of(left)
    later = later.advanced(round_of(later, 2, "ab"))
    assert (later.updates("a"), later.updates("b")) == (2, 2)
    alone = once.advanced(round_of(once, 2, "a"))
    assert dump(later.without({"b"})) == dump(alone)


@pytest.mark.parametrize(("left", "top_k"), [(("legal", "gl"), 3), (("gl",), 2)])
def test_remix_chooses_at_most_as_many_arms_as_there_are_left(left, top_k):
    router = make_router(RouterSpec("remix", 3, WIDTH, top_k=3))
    found = fresh(EXPERTS, router).of({name: EXPERTS[name] for name in left})
    assert found.initial.spec.top_k == top_k


@pytest.mark.parametrize("clients", ["", "ab", ("initial", "index", "a.b/c", "Łódź", "")])
def test_what_is_kept_comes_back(state, clients):
    changes = {c: change(state, i) for i, c in enumerate(clients)}
    trained = state.advanced(changes)
    found = restore(dump(trained))
    assert (found.experts, found.blocks) == (trained.experts, trained.blocks)
    assert found.initial.spec == trained.initial.spec
    assert {n: p.updates for n, p in found.parts.items()} == dict.fromkeys(changes, 1)
    assert same_state(found.router(), trained.router())
    assert dump(found) == dump(trained)
    assert dump(found.advanced(changes)) == dump(trained.advanced(changes))
