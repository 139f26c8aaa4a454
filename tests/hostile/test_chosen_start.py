"""A coordinator that chooses where a round begins does not get an update that it can read.

AdamW's first step is the gradient over its own size, which is about a sign, unless the gradient is
below AdamW's epsilon: there the step is in proportion to it, and shows it. Factors that are small
enough bring it there. So the client derives its start from the aggregate in a form of its own.
"""

import pytest
import torch

from fedmore.client.training.component import find_at
from fedmore.client.training.expert import Schedule, train
from fedmore.experts.base.model import linear_shapes, load_base
from fedmore.experts.factors import difference, initial
from fedmore.experts.spec import ExpertSpec
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.stages.expert import ExpertStage

RATE = 1e-3


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """The tiny base, the matrices that the owner trains, and one window of its text."""
    folder = make_tiny_base(tmp_path_factory.mktemp("base"))
    spec = ExpertSpec("kitchen/a", "expert", "kitchen", 2)
    sites = spec.sites(linear_shapes(str(folder)))
    text = torch.randint(0, 200, (1, 33), generator=torch.Generator().manual_seed(0))
    return load_base(str(folder), "float32"), spec, sites, text


def chosen(sites, size_b, size_a):
    """An aggregate of rank 2 in whatever factors the coordinator likes."""
    g = torch.Generator().manual_seed(1)
    return {
        s.path: (
            torch.randn(s.out_features, 2, generator=g) * size_b,
            torch.randn(2, s.in_features, generator=g) * size_a,
        )
        for s in sites
    }


def readable(victim, start):
    """The part of B's numbers whose first step is less than half of the rate: it shows its size."""
    base, _, sites, text = victim
    made = train(
        base.model, sites, start, None, 2.0, text, Schedule(1, 1, RATE, 1, 1, False),
        lambda *_: None,
    )  # fmt: skip
    moved = difference(made.factors, start)
    steps = torch.cat([b.flatten() for b, _ in moved.values()]).abs() / RATE
    return float((steps < 0.5).double().mean())


ATTACKS = [(1e-9, 1e-9), (1.0, 1e-10), (1e-10, 1.0), (1e4, 1e-14)]


@pytest.mark.parametrize(("size_b", "size_a"), ATTACKS)
def test_a_chosen_start_is_not_taken_as_it_is(victim, size_b, size_a):
    _, spec, sites, _ = victim
    member = Member("a", "expert", "kitchen", 2, 100, [], [])
    task = task_of(ExpertStage(round_start="aggregate"), member, 2, 1, 0)
    aggregate = chosen(sites, size_b, size_a)
    own = find_at(aggregate, task, None, initial(spec, sites, 0), 2.0)
    assert readable(victim, own.start) < 0.1
    for b, a in own.start.values():
        assert float(a.norm(dim=1).min()) > 0.5
        assert b.shape[1] == 2


def test_taken_as_it_is_it_would_be_readable(victim):
    """What the form prevents; a test of the test above."""
    _, _, sites, _ = victim
    assert readable(victim, chosen(sites, 1e-9, 1e-9)) > 0.9


def test_the_fresh_directions_are_the_owners_and_not_the_aggregates(victim):
    """Of an aggregate of rank 1 only one direction is chosen; the others are as at the first."""
    _, spec, sites, _ = victim
    first = initial(spec, sites, 0)
    member = Member("a", "expert", "kitchen", 2, 100, [], [])
    task = task_of(ExpertStage(round_start="aggregate"), member, 2, 1, 0)
    aggregate = {path: (b[:, :1], a[:1]) for path, (b, a) in chosen(sites, 1.0, 1.0).items()}
    own = find_at(aggregate, task, None, first, 2.0)
    for path, (b, a) in own.start.items():
        assert torch.equal(a[1:], first[path][1][1:])
        assert float(b[:, 1:].norm()) == 0
