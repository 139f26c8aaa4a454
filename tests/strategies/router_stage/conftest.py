"""Clients of the routing stage, and the experts that it works on."""

import zlib
from dataclasses import dataclass

import pytest
import torch
from flwr.app import ArrayRecord

from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec
from fedmore.strategies.members import HELLO, Member, hello
from fedmore.strategies.router_stage.strategy import RoutingSource, RoutingStrategy
from fedmore.strategies.router_stage.tasks import read_route_request, read_route_task
from fedmore.strategies.stages.router import RouterStage
from fedmore.strategies.tasks.train import METRICS, pack, update_content

WIDTH = 12
STAGE = RouterStage(rounds=3, steps=2, learning_rate=0.1, codec="fp32")
OWNERS = {"legal": {"a", "b"}, "gl": {"g"}}


@dataclass
class Client:
    """Moves every parameter of the router by pseudo-random steps of `scale`.

    `spoil` may replace its answers to routing tasks: a function of (message, answer).
    """

    name: str
    size: int = 100
    spoil: object = None
    scale: float = 0.1

    @property
    def member(self):
        return Member(self.name, "adapter" if self.name == "g" else "expert", "x", 2, self.size,
                      [], [])  # fmt: skip

    def answer(self, message):
        if message.metadata.message_type == HELLO:
            return hello(self.member)
        answer = self.route(message.content)
        return self.spoil(message, answer) if self.spoil else answer

    def route(self, content):
        task = read_route_task(content)
        array = pack(
            task.codec, list(self.change(read_route_request(content).router(), task.round).values())
        )
        return update_content(array.data, task.codec, dict.fromkeys(METRICS, 1))

    def change(self, router, number):
        g = torch.Generator().manual_seed(zlib.crc32(f"{self.name}/{number}".encode()))
        named = router.named_parameters()
        return {name: torch.randn(p.shape, generator=g) * self.scale for name, p in named}


@pytest.fixture
def trio():
    """Owners of legal, of different sizes of text, and of an adapter; new ones at each call."""
    return lambda: [Client("b", 300), Client("g", 50), Client("a", 100)]


@dataclass
class World:
    """What the stage works on; `gone` are the owners that have withdrawn."""

    shapes: dict
    experts: dict
    kind: str = "softmax"

    def __post_init__(self):
        self.gone = set()

    def left(self):
        return {name: made for name, made in self.experts.items() if OWNERS[name] - self.gone}

    def initial(self, experts):
        return make_router(RouterSpec(self.kind, len(experts), WIDTH, granularity="token", top_k=1))

    def source(self):
        return RoutingSource(
            self.shapes, self.left, self.initial, num_selections=8, entropy_weight=0.2,
            z_loss_weight=0.5, withdrawn=lambda: set(self.gone),
        )  # fmt: skip


@pytest.fixture(params=["softmax", "remix"])
def world(request, shapes, random_factors):
    specs = (ExpertSpec("legal", "expert", "legal", 2), ExpertSpec("gl", "adapter", "gl", 3, 1, 1))
    experts = {spec.name: random_factors(spec.sites(shapes), spec.rank) for spec in specs}
    return World(shapes, experts, request.param)


@pytest.fixture
def start(world):
    """Call it with a grid: trains and returns the strategy and its rounds."""

    def run(grid, rounds=2, stage=STAGE, done=0, state=None):
        log = []
        strategy = RoutingStrategy(
            stage, world.source(), 7, lambda *told: log.append(told), done, state
        )
        strategy.start(strategy.patient(grid), ArrayRecord(), num_rounds=rounds, timeout=0.2)
        return strategy, log

    return run
