"""A coordinator that hides something in the buffers of a router, which no training bounds.

The owner has allowed the plugin's router, and the plan trains it: only the numbers are chosen.
"""

from dataclasses import asdict, replace

import pytest
import torch
from owners import lenient, owner
from victim import ROUTER, TERMS, Victim, sites_of

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.policy_guard import guard_of
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.experts.errors import EgressError
from fedmore.experts.routers.serialization import make_router
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.strategies.router_stage.tasks import (
    ROUTE,
    RouteTask,
    ranks_of,
    route_arrays,
    route_content,
)
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.base import work_of

CODE = """
import torch
from fedmore.experts.routers.base import Router


class Steady(Router):
    learned = True

    def __init__(self, spec):
        super().__init__(spec)
        self.bias_LA = torch.nn.Parameter(torch.zeros(1, spec.arms))
        self.register_buffer("scale_A", torch.ones(spec.arms))
        self.register_buffer("table_A", torch.ones(spec.arms))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def buffer_limits(self):
        return {"scale_A": 2.0}

    def forward(self, x_BTD, slot, memory):
        logits = self.bias_LA[0] * self.scale_A * self.table_A
        return torch.softmax(logits, -1).expand(*x_BTD.shape[:2], -1)
"""
STAGE = RouterStage(rounds=3, steps=8, batch_size=4, sequence_length=64, threads=1, codec="fp32")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return load_base(str(make_tiny_base(tmp_path_factory.mktemp("tiny"))), "float32")


@pytest.fixture
def victim(tmp_path, base, plugged):
    """Checks how far a router has come, and has allowed the plugin."""
    plugged({"router.steady": "extra:Steady"}, CODE)
    victim = Victim(tmp_path, base, owner(tmp_path, "a"))
    config = victim.context.node_config
    config["policy"] = lenient(plugins=("router.steady",), max_router_reach=4.0)
    victim.guard = guard_of(victim.context.node_id, config, Audit(tmp_path))
    return victim


def message(base, kind, numbers, init="zero"):
    """An honest task of round 1, but for `numbers` of its router."""
    shapes = shapes_of(base.model)
    experts = {"legal": {s.path: (torch.zeros(s.out_features, 1), torch.zeros(1, s.in_features))
                         for s in sites_of(base)}}  # fmt: skip
    settings = work_of(STAGE, 1, 0, TERMS.seed) | asdict(replace(ROUTER, kind=kind, init=init))
    task = RouteTask(
        **settings, experts=("legal",), ranks=ranks_of(experts, shapes), width=64, layers=1
    )
    router = make_router(task.spec())
    for name, value in numbers.items():
        router.state_dict()[name].fill_(value)
    return route_content(task, route_arrays(router, experts, shapes, "fp32"))


HONEST = {
    "a plugin's": ("steady", {"scale_A": -2.0}),
    "from domain embeddings": ("softmax", {"domain.rows_ED": 1.0, "domain.bias_E": 3.0}),
}


@pytest.mark.parametrize(("kind", "numbers"), HONEST.values(), ids=HONEST)
def test_buffers_inside_their_limits_are_taken(victim, base, kind, numbers):
    """Else the test below could not fail."""
    init = "domain" if kind == "softmax" else "zero"
    assert victim.do(ROUTE, message(base, kind, numbers, init)).content
    assert victim.refusals() == []


CHOSEN = {
    "beyond its limit": ("steady", {"scale_A": 2.1}, "scale_A has a number of 2.1; .* at most 2 "),
    "that is not declared": ("steady", {"table_A": 1.001}, "table_A is not as routers of kind"),
    "of whole numbers": ("steady", {"count": 7}, "count is not as routers of kind 'steady'"),
    "rows of a domain": ("softmax", {"domain.rows_ED": 1e9}, "domains count one token as more"),
    "a threshold": ("softmax", {"domain.bias_E": -1e9}, "domains count one token as more"),
    "the place of a domain": ("softmax", {"domain.origin_D": 1e3}, "centres its domains where"),
    "features": ("softmax", {"features.origin_LD": 9.0}, "origin_LD has a number of 9"),
}


@pytest.mark.parametrize(("kind", "numbers", "why"), CHOSEN.values(), ids=CHOSEN)
def test_a_buffer_that_was_chosen_is_refused(victim, base, kind, numbers, why):
    init = "domain" if kind == "softmax" else "zero"
    with pytest.raises(EgressError, match=why):
        victim.do(ROUTE, message(base, kind, numbers, init))
    assert len(victim.refusals()) == 1


def test_an_owner_who_lets_a_router_come_from_anywhere_takes_no_other_buffer_either(victim, base):
    config = victim.context.node_config
    config["policy"] = lenient(plugins=("router.steady",), max_router_reach=0.0)
    with pytest.raises(EgressError, match="declares no limit for it"):
        victim.do(ROUTE, message(base, "steady", {"table_A": 2.0}))
