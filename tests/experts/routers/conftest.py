"""Every router there is, as a case: ``kind-top_k-place-level``; a new one is a line here.

A started one begins with domain embeddings.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedmore.experts.factors import initial
from fedmore.experts.mixture.model import assemble, routed_blocks
from fedmore.experts.router_training.gradient import fit_features, window_losses
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.inputs import read_inputs
from fedmore.experts.routers.past import Past
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import arrow_router
from fedmore.experts.spec import ExpertSpec

WIDTH = 64
PREFIX = 5
LEVELS = ("token", "sequence", "request")
CASES = [
    "uniform-0-shared-token",
    "uniform-0-layers-token",
    *(f"domain-2-shared-{level}" for level in LEVELS),
    "domain-0-shared-sequence",
    "arrow-0-layers-token",
    "arrow-2-layers-token",
    *(f"softmax-2-{place}-{level}" for place in ("shared", "layers") for level in LEVELS),
    "softmax-0-shared-sequence",
    "softmax-0-layers-token",
    *(f"xlora-2-layers-{level}" for level in LEVELS),
    *(f"remix-2-{place}-{level}" for place in ("shared", "layers") for level in LEVELS),
    "remix-1-shared-sequence",
    "remix-1-layers-token",
    "remix-2-layers-sequence-rank_stabilised",
    *(f"softmax-2-shared-{level}-started" for level in LEVELS),
    "softmax-0-shared-sequence-started",
    "remix-2-shared-sequence-started",
    "remix-1-shared-token-started",
]


OFTEN = {
    "uniform-0-shared-token",
    "domain-2-shared-request",
    "arrow-2-layers-token",
    "softmax-2-shared-sequence",
    "softmax-0-layers-token",
    "xlora-2-layers-request",
    "remix-2-layers-request",
    "remix-1-layers-token",
    "softmax-2-shared-sequence-started",
}
"""The routers that the gate puts into a model: every kind, place and level."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A model with one of the other routers is a slow test; a router alone is quick."""
    assert set(CASES) > OFTEN
    for item in items:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        model = {"mixture", "logits"} & set(item.fixturenames)
        if model and case in CASES and case not in OFTEN:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Case:
    """One router's shape, and how it is made."""

    name: str

    def spec(self, experts, blocks):
        kind, top_k, place, level, *more = self.name.split("-")
        layers = blocks if place == "layers" else 1
        scaling = "rank_stabilised" if "rank_stabilised" in more else "lora"
        start = "domain" if "started" in more else "zero"
        return RouterSpec(
            kind, experts, WIDTH, layers, level, PREFIX, int(top_k), scaling, 16, start
        )

    def make(self, base, experts):
        """A router with random numbers, as if it were trained."""
        blocks = routed_blocks(experts)
        spec = self.spec(len(experts), len(blocks))
        arrow = spec.kind == "arrow"
        router = arrow_router(spec, experts, blocks) if arrow else make_router(spec)
        generator = torch.Generator().manual_seed(3)
        for parameter in router.parameters():
            torch.nn.init.normal_(parameter, generator=generator)
        domain = router if spec.kind == "domain" else getattr(router, "domain", None)
        if domain is not None:
            domain.rows_ED.normal_(generator=generator).mul_(20 if domain is router else 3)
        ids = torch.randint(0, 256, (4, 12), generator=generator)
        fit_features(router, base.model, ids, blocks)
        return router


@pytest.fixture(scope="session", params=CASES)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="session")
def case_of():
    """Call it with a name: that case, of the list or not."""
    return Case


@pytest.fixture(scope="session")
def experts(base, shapes):
    """Two experts and an adapter that touches attention too, of different ranks."""
    return {
        "legal": random_change(ExpertSpec("legal", "expert", "legal", 4), shapes),
        "medical": random_change(ExpertSpec("medical", "expert", "medical", 9), shapes),
        "gl": random_change(ExpertSpec("gl", "adapter", "gl", 3, 2, 1), shapes),
    }


@pytest.fixture(scope="session")
def outer(shapes):
    """Two adapters of the first and the last block alone, large enough to make a difference."""
    specs = [ExpertSpec(name, "adapter", name, rank, 1, 1) for name, rank in (("gl", 2), ("eu", 3))]
    return {spec.name: random_change(spec, shapes, size=0.2) for spec in specs}


def random_change(spec, shapes, size=0.05):
    generator = torch.Generator().manual_seed(spec.rank)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * size

    return {
        s.path: (draw(s.out_features, spec.rank), draw(spec.rank, s.in_features))
        for s in spec.sites(shapes)
    }


@pytest.fixture(scope="session")
def router(case, base, experts):
    return case.make(base, experts)


@pytest.fixture(scope="session")
def mixture(base, experts, router):
    return assemble(base.model, experts, router)


@pytest.fixture(scope="session")
def weights():
    """Call it with a router and hidden states: the weights of all its decisions, [L, B, T, A]."""

    @torch.no_grad()
    def decide(router, x_BTD, mask_BT=None, chunks=None):
        past, found = Past(), []
        for size in chunks or [x_BTD.shape[1]]:
            end = past.seen + size
            x = x_BTD[:, past.seen : end]
            mask = None if mask_BT is None else mask_BT[:, :end]
            memory = Memory(read_inputs({"inputs_embeds": x, "attention_mask": mask}, past), past)
            if router.two_pass:
                router.plan(x, memory)
            found.append(torch.stack([router(x, i, memory) for i in range(router.spec.layers)]))
            past = memory.passed()
        return torch.cat(found, dim=2)

    return decide


@dataclass(frozen=True)
class Toy:
    """Two kinds of text, an expert that is better for kind a alone, and one worse for both."""

    base: Any
    experts: dict

    @staticmethod
    def text(kind, count, seed):
        """Windows [count, 13]: a start token, then four tokens that the other kind lacks."""
        first = {"a": 20, "b": 100}[kind]
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(first, first + 4, (count, 13), generator=generator)
        ids[:, 0] = 256
        return ids

    def both(self, count, seed):
        """Of each kind in turn."""
        return torch.stack([self.text(kind, count, seed) for kind in "ab"], 1).flatten(0, 1)

    def mixture(self, kind, top_k=0, layers=1, level="sequence", trainable=False):
        """With a router that is as yet untrained."""
        spec = RouterSpec(kind, 2, WIDTH, layers, level, PREFIX, top_k, hidden=16)
        router = make_router(spec)
        ids = self.both(16, seed=1)[:, :-1]
        fit_features(router, self.base.model, ids, routed_blocks(self.experts))
        return assemble(self.base.model, self.experts, router, trainable)


@pytest.fixture(scope="session")
def toy(base, shapes):
    """Trained on the spot, each alone."""
    torch.set_num_threads(1)
    experts = {}
    for name in ("worse", "better"):
        spec = ExpertSpec(name, "expert", name, 2)
        experts[name] = initial(spec, spec.sites(shapes), seed=0)
    made = Toy(base, experts)
    for name, signs in (("better", [1.0, -1.0]), ("worse", [-1.0, -1.0])):
        mixture = made.mixture("uniform", trainable=True)
        own = [tensor for pair in mixture.trained[name].values() for tensor in pair]
        optimiser = torch.optim.Adam(own, lr=0.01)
        forced = torch.tensor([[0.0, name == "worse", name == "better"]]).repeat(8, 1)
        for step in range(10):
            optimiser.zero_grad()
            with mixture.gates.asking(forced=forced):
                losses = window_losses(mixture.model, made.both(4, seed=step))
            (losses * torch.tensor(signs).repeat(4)).mean().backward()
            optimiser.step()
        experts[name] = {p: (b.detach(), a.detach()) for p, (b, a) in mixture.trained[name].items()}
    return made
