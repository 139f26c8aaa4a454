"""The aggregate's mirror at its owners: nearest factors, few bits, the same bits at both ends."""

import pytest
import torch
from assertions import same

from fedmore.experts.errors import WireError
from fedmore.experts.factors import empty, ranks, tensors
from fedmore.experts.spec import TargetModule
from fedmore.kernels.lowrank_sum import cpu as delta
from fedmore.strategies.compression.codec import codecs_of
from fedmore.strategies.expert_stage.aggregate_mirror import (
    MOST_LEFT,
    broadcast,
    fingerprint,
    nearest,
    received,
)
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import Component, ExpertState, without
from fedmore.strategies.tasks.train import TrainTask, read_train_request

SITES = (
    TargetModule("model.layers.0.mlp.up_proj", 40, 24),
    TargetModule("model.layers.0.mlp.down_proj", 24, 40),
)
COARSE = ("sign1", "nf4", "auto,factor_b=int8")
TASK = TrainTask(
    expert="legal", kind="expert", target="legal", rank=2, first_layers=1, last_layers=1,
    stage="experts", round=2, rounds=3, steps=5, batch_size=2, sequence_length=16,
    learning_rate=1e-3, codec="sign1", threads=1, seed=4, updates=1,
)  # fmt: skip


def aggregate(rank, seed, moved=0.0):
    """Balanced factors as the coordinator has them; `moved` is how far from those of `seed`."""
    g = torch.Generator().manual_seed(seed)

    def one(site):
        b, a = (
            torch.randn(site.out_features, rank, generator=g),
            torch.randn(rank, site.in_features, generator=g),
        )
        db, da = torch.randn(b.shape, generator=g), torch.randn(a.shape, generator=g)
        pair = delta.truncate(b + moved * db, a + moved * da, rank)
        return tuple(factor.float() for factor in pair)

    return {site.path: one(site) for site in SITES}


def apart(left, right):
    """Relative Frobenius distance of two aggregates' products."""
    wrong = sum(delta.norm([(*left[p], 1.0), (*right[p], -1.0)]) ** 2 for p in right)
    return (wrong / sum(delta.norm([(*pair, 1.0)]) ** 2 for pair in right.values())) ** 0.5


def turned(factors, seed):
    """The same products by other factors."""
    found = {}
    for path, (b, a) in factors.items():
        g = torch.Generator().manual_seed(seed)
        q, _ = torch.linalg.qr(torch.randn(a.shape[0], a.shape[0], generator=g).double())
        found[path] = ((b.double() @ q).float(), (q.T @ a.double()).float())
    return found


def distance(left, right):
    pairs = zip(tensors(left, SITES), tensors(right, SITES), strict=True)
    return sum(float((x.double() - y.double()).square().sum()) for x, y in pairs)


def sent_to(cast, held, holds=None):
    """What a client with the mirror `held` makes of a broadcast."""
    content = cast.content(TASK, SITES, fingerprint(held) if holds is None else holds)
    return received(read_train_request(content), SITES, held)


def test_the_nearest_factors_keep_the_product_and_find_the_rotation_back():
    here = aggregate(5, 1)
    found = nearest(turned(here, 3), here)
    assert apart(found, here) < 1e-6
    assert distance(found, here) < 1e-8


def test_no_other_rotation_is_nearer():
    here, there = aggregate(5, 1), aggregate(5, 1, moved=0.3)
    found = nearest(there, here)
    assert apart(found, there) < 1e-6
    assert distance(found, here) < 0.5 * distance(there, here)
    assert all(distance(found, here) < distance(turned(found, seed), here) for seed in range(20))


def test_the_nearest_of_a_smaller_rank_is_filled_up():
    here, there = aggregate(6, 1), aggregate(4, 2)
    found = nearest(there, here)
    assert ranks(found) == ranks(here)
    assert apart(found, there) < 1e-6


def test_the_first_is_whole_and_bfloat16():
    there = aggregate(5, 1)
    cast = broadcast(there, {}, "sign1", SITES)
    assert cast.upon == 0
    assert cast.error == pytest.approx(apart(cast.mirror, there))
    assert 0 < cast.error < 0.01
    assert all(torch.equal(t, t.bfloat16().float()) for t in tensors(cast.mirror, SITES))
    content = cast.content(TASK, SITES, 0)
    request = read_train_request(content)
    assert request.move(SITES) is None
    assert same(request.aggregate(SITES), cast.mirror)
    assert request.task.mirror == fingerprint(cast.mirror) > 0


@pytest.mark.parametrize("codec", COARSE)
def test_both_ends_hold_the_same_bits_round_after_round(codec):
    coordinator, steady, lossy = {}, {}, {}
    for number, rank in enumerate((4, 5, 5, 4, 6)):
        cast = broadcast(aggregate(rank, 1, moved=0.05 * number), coordinator, codec, SITES)
        coordinator, steady = cast.mirror, sent_to(cast, steady)
        lossy = sent_to(cast, lossy if number % 2 else {})
        assert same(steady, coordinator)
        assert same(lossy, coordinator)
        assert fingerprint(steady) == fingerprint(coordinator)


def test_one_bit_a_number_travels():
    held = broadcast(aggregate(5, 1), {}, "sign1", SITES).mirror
    there = aggregate(5, 1, moved=0.1)
    cast = broadcast(there, held, "sign1", SITES)
    assert cast.error == pytest.approx(apart(cast.mirror, there))
    shapes = [tuple(t.shape) for t in tensors(there, SITES)]
    size = sum(c.size(x * y) for c, (x, y) in zip(codecs_of("sign1", shapes), shapes, strict=True))
    (array,) = cast.content(TASK, SITES, fingerprint(held)).array_records["state"].values()
    assert (len(array.data), array.stype) == (size, "fedmore.sign1")
    assert len(array.data) < 40 / 32 / 8 * sum(x * y for x, y in shapes)


@pytest.mark.parametrize(("codec", "most"), [("sign1", 0.02), ("nf4", 0.01), ("int8", 0.01)])
def test_an_aggregate_that_stands_still_is_reached(codec, most):
    held = broadcast(aggregate(5, 1), {}, codec, SITES).mirror
    there, first = aggregate(5, 1, moved=0.2), None
    for number in range(16):
        held = broadcast(turned(there, number), held, codec, SITES).mirror
        first = apart(held, there) if first is None else first
    assert apart(held, there) < min(most, first)


def test_one_bit_without_the_mirror_is_no_aggregate():
    """What it is for: the codec alone, on whole factors."""
    there = aggregate(5, 1)
    held = broadcast(aggregate(5, 1, moved=0.05), {}, "sign1", SITES).mirror
    codec = codecs_of("sign1", [tuple(t.shape) for t in tensors(there, SITES)])
    flat = iter(
        one.decode_one(one.encode_one(t), t.numel()).view(t.shape)
        for one, t in zip(codec, tensors(there, SITES), strict=True)
    )
    coarse = {site.path: (next(flat), next(flat))[::-1] for site in SITES}
    assert apart(coarse, there) > 0.6
    assert apart(broadcast(there, held, "sign1", SITES).mirror, there) < 0.1


def test_another_aggregate_altogether_is_sent_whole():
    held = broadcast(aggregate(5, 1), {}, "sign1", SITES).mirror
    other = broadcast(aggregate(5, 9), held, "sign1", SITES)
    assert other.upon == 0
    assert apart(other.mirror, aggregate(5, 9)) < 0.01
    assert broadcast(aggregate(5, 1, moved=0.3), held, "sign1", SITES).upon == fingerprint(held)
    assert broadcast(aggregate(5, 9), held, "nf4", SITES).upon == fingerprint(held)
    assert 0.3 < MOST_LEFT < 0.6


def test_an_aggregate_of_nothing():
    nothing = empty(SITES)
    cast = broadcast(nothing, {}, "sign1", SITES)
    assert ranks(cast.mirror) == ranks(nothing)
    assert broadcast(nothing, cast.mirror, "sign1", SITES).move == b""
    assert cast.error == 0


def test_a_mirror_that_is_lost_or_foreign_is_never_guessed():
    held = broadcast(aggregate(5, 1), {}, "sign1", SITES).mirror
    cast = broadcast(aggregate(5, 1, moved=0.1), held, "sign1", SITES)
    move = cast.content(TASK, SITES, fingerprint(held))
    with pytest.raises(WireError, match="no mirror is held here"):
        received(read_train_request(move), SITES, {})
    foreign = broadcast(aggregate(5, 2), {}, "sign1", SITES).mirror
    with pytest.raises(WireError, match="is not the coordinator's"):
        received(read_train_request(move), SITES, foreign)
    with pytest.raises(WireError, match="no mirror is held here"):
        received(
            read_train_request(move), SITES, broadcast(aggregate(7, 1), {}, "sign1", SITES).mirror
        )
    assert same(sent_to(cast, foreign), cast.mirror)
    assert same(sent_to(cast, {}), cast.mirror)


def test_a_whole_mirror_of_other_bits_is_refused():
    cast = broadcast(aggregate(5, 1), {}, "sign1", SITES)
    content = cast.content(TASK, SITES, 0)
    content.config_records["task"]["mirror"] += 1
    with pytest.raises(WireError, match="is not the coordinator's"):
        received(read_train_request(content), SITES, {})


def test_the_mark_tells_bits_shapes_and_places_apart():
    one = broadcast(aggregate(5, 1), {}, "sign1", SITES).mirror
    first, second = (site.path for site in SITES)
    b, a = one[first]
    swapped = {first: one[second], second: one[first]}
    states = [{}, one, {**one, first: (b + 1, a)}, {first: one[first]}, swapped]
    seen = [fingerprint(state) for state in (*states, broadcast(one, {}, "", SITES).mirror)]
    assert len(set(seen)) == 5
    assert seen[0] == 0
    assert all(0 <= one < 2**48 for one in seen)


def test_the_result_does_not_depend_on_threads():
    site = TargetModule("model.layers.0.mlp.up_proj", 700, 500)
    g = torch.Generator().manual_seed(1)
    first, second = (
        {site.path: (torch.randn(700, 200, generator=g), torch.randn(200, 500, generator=g))}
        for _ in range(2)
    )
    held = broadcast(first, {}, "sign1", [site]).mirror
    found = set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            cast = broadcast(second, held, "nf4", [site])
        finally:
            torch.set_num_threads(1)
        found.add((cast.move, fingerprint(cast.mirror)))
    assert len(found) == 1


def test_a_snapshot_holds_it_and_withdrawal_gives_it_up():
    there = aggregate(5, 1)
    parts = {name: Component(aggregate(2, seed)) for seed, name in enumerate("ab")}
    mirror = broadcast(there, {}, "sign1", SITES).mirror
    state = ExpertState("legal", "expert", there, parts, mirror)
    blob = dump({"legal": state, "other": ExpertState("other", "expert", aggregate(3, 2))})
    back = restore(blob)
    assert dump(back) == blob
    assert same(back["legal"].mirror, mirror)
    assert same(back["legal"].aggregate, there)
    assert set(back["legal"].components) == {"a", "b"}
    assert back["other"].mirror == {}
    left, _ = without(state, {"a"}, 512)
    assert left.mirror == {}
