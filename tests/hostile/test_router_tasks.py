"""A coordinator that reads through tasks which train the router: its experts, router and ranks.

The owner's own held-out text judges what a task brings as one mixture, as it judges an aggregate.
"""

from dataclasses import asdict, replace

import pytest
import torch
from owners import owner
from reading import make_trap
from victim import PUBLIC, ROUTER, SECRET, TERMS, Victim, sites_of

from fedmore.client.ingress.weights import loss_of
from fedmore.client.owner.agreement import Agreement
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import EgressError, FedmoreError
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    RouteTask,
    ranks_of,
    route_arrays,
    route_content,
)
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.base import work_of

STAGE = RouterStage(rounds=3, steps=8, batch_size=4, sequence_length=64, threads=1)
LEARNED = replace(ROUTER, kind="softmax")
PLAN = replace(TERMS, stages=(*TERMS.stages, STAGE), router=LEARNED)


@pytest.fixture
def victim(tmp_path, base):
    """At the defaults, with a plan agreed to that trains a softmax router."""
    Agreement(tmp_path).accept(PLAN)
    return Victim(tmp_path, base, owner(tmp_path, "a") | {"policy": ""})


def silent(base, rank=2):
    """An expert that changes nothing."""
    return {
        s.path: (torch.zeros(s.out_features, rank), torch.zeros(rank, s.in_features))
        for s in sites_of(base)
    }


def small(base, seed, part=0.9):
    """A random change of every matrix, of a part of its spectral norm: small enough, each."""
    generator, change = torch.Generator().manual_seed(seed), {}
    for site in sites_of(base):
        norm = float(torch.linalg.matrix_norm(base.model.get_submodule(site.path).weight, 2))
        b = torch.linalg.qr(torch.randn(site.out_features, 32, generator=generator))[0]
        a = torch.linalg.qr(torch.randn(site.in_features, 32, generator=generator))[0].T
        change[site.path] = (part * norm * b, a)
    return change


def ruinous(base):
    """Of several such changes the one under which the owner's kind of text is worst."""
    ids = torch.tensor([base.tokenizer(text)["input_ids"][:65] for text in SECRET[:8]])
    found = [small(base, seed) for seed in range(8)]
    return max(found, key=lambda change: loss_of(with_change(base.model, change), ids))


def message(base, experts, router=None, number=1, **changes):
    shapes = shapes_of(base.model)
    spec = RouterSpec(
        "softmax", len(experts), 64, top_k=LEARNED.top_k, prefix_tokens=LEARNED.prefix_tokens
    )
    settings = work_of(STAGE, number, number - 1, PLAN.seed) | asdict(LEARNED)
    task = RouteTask(
        **(settings | changes), experts=tuple(experts), ranks=ranks_of(experts, shapes), width=64,
        layers=1,
    )  # fmt: skip
    made = router or make_router(spec)
    return route_content(task, route_arrays(made, experts, shapes, "fp32"))


def router_with(**numbers):
    made = make_router(
        RouterSpec("softmax", 2, 64, top_k=LEARNED.top_k, prefix_tokens=LEARNED.prefix_tokens)
    )
    for name, value in numbers.items():
        made.state_dict()[name].fill_(value)
    return made


def strict(victim, **rules):
    """The same owner with other bounds."""
    from fedmore.client.egress.audit_log import Audit
    from fedmore.client.egress.policy_guard import guard_of
    from fedmore.client.owner.policy import OwnerPolicy, dump_policy

    victim.context.node_config["policy"] = dump_policy(OwnerPolicy(**rules))
    victim.guard = guard_of(
        victim.context.node_id, victim.context.node_config, Audit(victim.folder)
    )
    return victim


def test_an_honest_task_is_answered(victim, base):
    assert victim.do(ROUTE, message(base, {"legal": silent(base), "gl": silent(base)})).content
    assert victim.refusals() == []


def test_experts_that_are_small_but_ruin_the_mixture_are_known_by_the_owners_text(victim, base):
    """Each passes by its spectral norm; what the mixture loses is told to the owner alone."""
    experts = {"legal": ruinous(base), "gl": ruinous(base)}
    with pytest.raises(EgressError, match=r"the mixture of legal, gl: .* is worse") as raised:
        strict(victim, max_worse=1e-4).do(ROUTE, message(base, experts))
    assert "nats" not in str(raised.value)
    assert "nats a token, at most +0.0001 are taken" in victim.refusals()[0]


def test_a_trap_among_the_experts_is_too_large(victim, base):
    ids = torch.tensor([base.tokenizer(PUBLIC)["input_ids"][:256]])
    trap = make_trap(base.model, sites_of(base), ids, 10.0).change
    with pytest.raises(EgressError, match=r"the expert gl: .* times the spectral norm"):
        victim.do(ROUTE, message(base, {"legal": silent(base), "gl": trap}))


CHOSEN = {
    "rows": {"rows_LAD": 3.0},
    "a bias": {"bias_LA": -50.0},
    "rows beyond all measure": {"rows_LAD": 3e38},
    "features magnified": {"features.scale_LD": 1e-9},
    "features of nothing": {"features.scale_LD": 3e38},
    "features moved away": {"features.origin_LD": 1e6},
}


@pytest.mark.parametrize("numbers", CHOSEN.values(), ids=CHOSEN)
def test_a_router_that_no_training_made_is_refused(victim, base, numbers):
    """One that is saturated but for a few tokens would name these by its gradient."""
    experts = {"legal": silent(base), "gl": silent(base)}
    with pytest.raises(EgressError, match="the router"):
        victim.do(ROUTE, message(base, experts, router_with(**numbers)))
    assert len(victim.refusals()) == 1


def test_what_a_round_can_have_moved_is_taken(victim, base):
    """In round 2 as far as round 1 can have come, and no further."""
    reach = 8 * STAGE.learning_rate
    experts = {"legal": silent(base), "gl": silent(base)}
    with pytest.raises(EgressError, match="can have moved it by"):
        victim.do(
            ROUTE, message(base, experts, router_with(rows_LAD=4.1 * reach), number=2, updates=0)
        )
    assert victim.do(
        ROUTE, message(base, experts, router_with(rows_LAD=reach), number=3, updates=0)
    )


FORGED = {
    "one step": {"steps": 1, "batch_size": 1},
    "short windows": {"sequence_length": 2},
    "a high learning rate": {"learning_rate": 0.5},
    "full precision": {"codec": "fp32"},
    "another kind of router": {"kind": "remix"},
    "another granularity": {"granularity": "token"},
    "another seed": {"seed": 1},
    "a later round": {"round": 4},
    "more arms at once": {"top_k": 3},
    "the stage of experts": {"stage": "experts"},
    "the stage of languages": {"stage": "language"},
    "the stage of embeddings": {"stage": "router"},
}  # fmt: skip


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_a_routing_task_that_was_not_agreed_to_gives_nothing(victim, base, changes):
    with pytest.raises(FedmoreError):
        victim.do(ROUTE, message(base, {"legal": silent(base), "gl": silent(base)}, **changes))
    assert len(victim.refusals()) <= 1


def test_a_round_is_not_asked_again_with_other_experts(victim, base):
    """The difference of the two answers would say how the owner's text differs under them."""
    victim.do(ROUTE, message(base, {"legal": silent(base), "gl": silent(base)}))
    with pytest.raises(EgressError, match="a second time and in another way"):
        victim.do(ROUTE, message(base, {"legal": small(base, 1, 0.1), "gl": silent(base)}))


def test_an_expert_of_more_rank_than_the_plan_keeps_is_not_decoded(tmp_path, base):
    narrow = replace(PLAN, stages=(replace(PLAN.stages[0], max_rank=3), *PLAN.stages[1:]))
    Agreement(tmp_path).accept(narrow)
    victim = Victim(tmp_path, base, owner(tmp_path, "a") | {"policy": ""})
    with pytest.raises(EgressError, match="it brings an expert of rank 4, agreed was 3"):
        victim.do(ROUTE, message(base, {"legal": silent(base, 4), "gl": silent(base)}))
