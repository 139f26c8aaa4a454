"""Owners who come, go, are late, grow and withdraw, against dense FedAvg over the same answers."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from fedmore.experts.factors import total
from fedmore.experts.ranks import FULL
from fedmore.experts.spec import TargetModule
from fedmore.kernels.grouped_lowrank.factors import matrix_of
from fedmore.strategies.expert_stage.changes import COMMON, Change
from fedmore.strategies.expert_stage.snapshot import dump, restore
from fedmore.strategies.expert_stage.state import Component, ExpertState, fresh, scaled, without
from fedmore.strategies.expert_stage.step import Outer, advance
from fedmore.strategies.stages.expert import ExpertStage

SITE = TargetModule("model.layers.0.mlp.up_proj", 14, 9)
ALL = 512
RANKS = {"a": 1, "b": 3, "c": 5, "d": 2, "e": FULL}
SCALES = {"a": 2.0, "b": 1.0, "c": 0.5, "d": 3.0, "e": 1.0}


@dataclass
class Dense:
    """FedAvg of products as dense float64 matrices: the specification of `state.advance`."""

    rate: float = 1.0
    momentum: float = 0.0
    parts: dict[str, torch.Tensor] = field(default_factory=dict)
    pushes: dict[str, torch.Tensor] = field(default_factory=dict)

    def round(self, changes):
        total = sum(c.size for c in changes)
        moves = {c.client: c.size / max(total, 1) * c.fresh * moved(c) for c in changes}
        for name in {*moves, *self.pushes}:
            move = moves.get(name, 0)
            self.pushes[name] = self.momentum * self.pushes.get(name, 0) + move
            step = self.rate * (move + self.momentum * self.pushes[name])
            self.parts[name] = self.parts.get(name, 0) + step

    def withdraw(self, name):
        self.parts.pop(name, None)
        self.pushes.pop(name, None)

    @property
    def aggregate(self):
        return sum(
            self.parts.values(),
            torch.zeros(SITE.out_features, SITE.in_features, dtype=torch.float64),
        )


def product(change):
    return matrix_of([factor.double() for factor in change])


def moved(change):
    after, before = (product(f[SITE.path]) for f in (change.after, change.before))
    return change.scale * (after - before)


def drawn(generator, rank, size):
    if rank == FULL:
        shape = SITE.out_features, SITE.in_features
        return {SITE.path: (torch.randn(shape, generator=generator) * size,)}
    b = torch.randn(SITE.out_features, rank, generator=generator) * size
    return {SITE.path: (b, torch.randn(rank, SITE.in_features, generator=generator) * size)}


@dataclass
class Owners:
    """What every owner holds, moved by random steps; `held`: from round to round."""

    held: bool
    generator: torch.Generator
    factors: dict = field(default_factory=dict)

    def change(self, name, size, delay):
        if name not in self.factors or not self.held:
            self.factors[name] = drawn(self.generator, RANKS[name], 0.5)
            if self.held:  # as training begins: with B zero, so that nothing is changed yet
                first, *others = self.factors[name][SITE.path]
                self.factors[name] = {SITE.path: (torch.zeros_like(first), *others)}
        before, step = self.factors[name], drawn(self.generator, RANKS[name], 0.1)
        after = total(before, step)
        self.factors[name] = after
        return Change(name, before, after, size, SCALES[name], 0.5**delay)


answers = st.dictionaries(
    st.sampled_from(sorted(RANKS)),
    st.tuples(st.sampled_from([0, 1, 100, 100, 900]), st.integers(0, 3)),
    min_size=1,
)
events = st.one_of(answers, answers, answers, st.sampled_from(sorted(RANKS)), st.just("resume"))

seeds = st.integers(0, 10**6)


@settings(deadline=None, max_examples=examples(30))
@given(
    st.lists(events, min_size=1, max_size=12), st.integers(0, 10**6), st.booleans(), st.booleans()
)
def test_any_schedule_is_fedavg_of_the_changes(schedule, seed, held, pushed):
    """Presence, joins, lateness, sizes, withdrawals and resumes; also with outer momentum."""
    outer = Outer(0.7, 0.5, held) if pushed else Outer(held=held)
    dense, state = Dense(outer.rate, outer.momentum), fresh("legal", "expert", (SITE,))
    owners, gone = Owners(held, torch.Generator().manual_seed(seed)), set()
    for event in schedule:
        if event == "resume":
            state = restore(dump({"legal": state}))["legal"]
        elif isinstance(event, str):
            gone.add(event)
            state, _ = without(state, {event}, ALL)
            dense.withdraw(event)
        else:
            there = {name: says for name, says in event.items() if name not in gone}
            changes = [owners.change(name, *says) for name, says in sorted(there.items())]
            if changes:
                state, _ = advance(state, changes, ALL, outer=outer)
                dense.round(changes)
        size = max(float(dense.aggregate.norm()), 1e-3)
        assert float((product(state.aggregate[SITE.path]) - dense.aggregate).norm()) < 1e-6 * size
    for name, part in dense.parts.items():
        alone, _ = without(state, set(RANKS) - {name}, ALL)
        size = max(float(part.norm()), 1e-3)
        assert float((product(alone.aggregate[SITE.path]) - part).norm()) < 1e-6 * size


def rounds(held, count=6, sizes=(1, 3), **outer):
    state = fresh("legal", "expert", (SITE,))
    owners = Owners(held, torch.Generator().manual_seed(0))
    for _ in range(count):
        changes = [owners.change(n, size, 0) for n, size in zip("ab", sizes, strict=True)]
        state, _ = advance(state, changes, ALL, outer=Outer(held=held, **outer))
    return state, owners


def test_while_weights_stay_equal_a_contribution_is_its_component():
    state, _ = rounds(held=True)
    assert state.settled == {}
    assert state.rank == RANKS["a"] + RANKS["b"]
    assert state.size() == {
        "contribution_rank": 0, "contribution_bytes": 0, "contribution_error": 0.0,
    }  # fmt: skip


def test_an_owner_who_joins_rescales_nobody():
    state, owners = rounds(held=True)
    before = product(state.aggregate[SITE.path])
    joins = owners.change("c", 100, 0)
    others = [owners.change(name, size, 0) for name, size in (("a", 1), ("b", 3))]
    after, _ = advance(state, [joins, *others], ALL)
    step = sum(c.size / 104 * moved(c) for c in (joins, *others))
    off = product(after.aggregate[SITE.path]) - before - step
    assert float(off.norm()) < 1e-6 * float(before.norm())


def test_a_late_answer_that_changes_nothing_changes_nothing():
    """Nobody moved, yet today's shares made the aggregate jump: 3.562 to 4.852 bits per byte."""
    state, owners = rounds(held=True)
    still = [
        Change(n, owners.factors[n], owners.factors[n], 1, SCALES[n], fresh_part)
        for n, fresh_part in (("a", 0.5), ("b", 1.0))
    ]
    after, _ = advance(state, still, ALL)
    before = product(state.aggregate[SITE.path])
    off = product(after.aggregate[SITE.path]) - before
    assert float(off.norm()) < 1e-6 * float(before.norm())


def test_with_staleness_zero_a_late_owner_alone_leaves_the_expert_as_it_was():
    owners = Owners(True, torch.Generator().manual_seed(0))
    change = owners.change("a", 100, 0)
    late = Change("a", change.before, change.after, 100, 2.0, 0.0**1)
    state, error = advance(fresh("legal", "expert", (SITE,)), [late], ALL)
    assert (state.rank, error, state.components["a"].updates) == (0, 0.0, 1)
    again = owners.change("a", 100, 0)
    state, _ = advance(state, [again], ALL)
    off = product(state.aggregate[SITE.path]) - moved(again)
    assert float(off.norm()) < 1e-6 * float(moved(again).norm())


def test_a_coarse_fold_says_what_it_left_out():
    exact, _ = rounds(held=False)
    coarse, _ = rounds(held=False, tolerance=0.3)
    off = product(coarse.aggregate[SITE.path]) - product(exact.aggregate[SITE.path])
    off = float(off.norm() / product(coarse.aggregate[SITE.path]).norm())
    told = coarse.size()
    assert 0.01 < off < told["contribution_error"]
    assert told["contribution_rank"] < exact.size()["contribution_rank"]
    assert told["contribution_bytes"] < exact.size()["contribution_bytes"]


def test_all_contributions_by_one_factor():
    state, _ = rounds(held=True, sizes=(1, 3))
    for each in (state, rounds(held=False, momentum=0.5)[0]):
        half, _ = scaled(each, 0.5, ALL)
        wanted = 0.5 * product(each.aggregate[SITE.path])
        off = product(half.aggregate[SITE.path]) - wanted
        assert float(off.norm()) < 1e-6 * float(wanted.norm())


@pytest.mark.parametrize("rule", ["mean", "krum", "trimmed_mean"])
def test_a_folder_of_shares_opens_at_its_owners_last_shares(rule):
    """As kept before: weights are sizes of texts, and the aggregate follows from them."""
    parts = {name: drawn(torch.Generator().manual_seed(k), 2, 1.0) for k, name in enumerate("ab")}
    shares = {"a": 0.25, "b": 0.75} if rule == "mean" else {"a": 0.0, "b": 1.0}
    whole = sum(2.0 * share * product(parts[name][SITE.path]) for name, share in shares.items())
    u, s, vh = torch.linalg.svd(whole, full_matrices=False)
    aggregate = {SITE.path: ((u * s).float(), vh.float())}
    old = ExpertState(
        "legal", "expert", aggregate,
        {"a": Component(parts["a"], 3, 100.0, 2.0), "b": Component(parts["b"], 3, 300.0, 2.0)},
    )  # fmt: skip
    data = as_of_old(dump({"legal": old}))
    state = restore(data, ExpertStage(aggregation=rule))["legal"]
    assert [part.updates for part in state.components.values()] == [3, 3]
    anew, _ = without(state, {"nobody"}, ALL)
    off = product(anew.aggregate[SITE.path]) - whole
    assert float(off.norm()) < 1e-6 * float(whole.norm())
    assert state.exact == (rule == "mean")
    assert set(state.settled) == (set() if rule == "mean" else {COMMON})


def as_of_old(data):
    """A snapshot without what snapshots did not hold then."""
    import json

    from safetensors.torch import load, save

    tensors = load(data)
    index = json.loads(bytes(tensors.pop("index").tolist()))
    for entry in index.values():
        for key in set(entry) - {"kind", "components"}:
            del entry[key]
    text = torch.tensor(list(json.dumps(index).encode()), dtype=torch.uint8)
    return save({**tensors, "index": text})
